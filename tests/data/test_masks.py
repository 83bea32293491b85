import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft.data import Example
from keras_sdft.data import Report
from keras_sdft.data import load
from keras_sdft.data.masks import latent_mask
from keras_sdft.data.masks import read_masked


def left_half(height, width, mode="L"):
    """White on the left, black on the right."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    return Image.fromarray(pixels).convert(mode)


def photo(height, width):
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (height, width, 3), np.uint8)


def masks_of(dataset):
    return np.concatenate([batch["loss_mask"].numpy() for batch in dataset])


def shrunk(mask, height, width, flip=False):
    return latent_mask(mask, mask.size, (0, 0, *mask.size), height, width, flip)


def test_each_latent_gets_the_mean_of_its_pixels():
    pixels = np.zeros((64, 128), np.uint8)
    pixels[:8, :8] = 255
    # A quarter of the latent in row 1, column 2.
    pixels[8:12, 16:20] = 255
    pixels[56:, 120:] = 51
    mask = shrunk(Image.fromarray(pixels), 64, 128)
    assert mask.shape == (8, 16, 1) and mask.dtype == np.float32
    expected = np.zeros((8, 16, 1))
    expected[0, 0], expected[1, 2], expected[7, 15] = 1.0, 0.25, 0.2
    np.testing.assert_allclose(mask, expected, atol=1e-6)
    flipped = shrunk(Image.fromarray(pixels), 64, 128, flip=True)
    np.testing.assert_allclose(flipped, mask[:, ::-1], atol=1e-6)


def test_a_mask_of_another_scale_is_cut_at_the_same_place():
    # A JPEG decoded at half its size: the box is in the image's pixels.
    mask = left_half(128, 256)
    cut = latent_mask(mask, (128, 64), (32, 0, 96, 64), 64, 64)
    # The edge itself is smoothed over a pixel.
    np.testing.assert_allclose(cut[:, :4], 1, atol=0.02)
    np.testing.assert_allclose(cut[:, 4:], 0, atol=0.02)


def with_files(tmp_path):
    Image.fromarray(photo(64, 128)).save(tmp_path / "a.png")
    left_half(64, 128).save(tmp_path / "a-masklabel.png")
    (tmp_path / "a.txt").write_text("a dog")
    return tmp_path


def with_table(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(photo(64, 128)).save(tmp_path / "a.png")
    left_half(64, 128, "RGB").save(tmp_path / "masks" / "x.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,mask_file_name\na.png,a dog,masks/x.png\n"
    )
    return tmp_path


def with_lines(tmp_path):
    with_table(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a", "mask_file_name": "masks/x.png"}\n'
    )
    return tmp_path


def with_examples(tmp_path):
    return [Example(photo(64, 128), "a dog", mask=left_half(64, 128))]


@pytest.mark.parametrize(
    "source", [with_files, with_table, with_lines, with_examples]
)
def test_masks_of_every_source(source, tmp_path, tokenizer):
    dataset = load(
        source(tmp_path),
        tokenizer,
        resolution=(64, 128),
        batch_size=1,
        masks="files",
    )
    spec = dataset.element_spec["loss_mask"]
    assert spec == tf.TensorSpec((1, 8, 16, 1), tf.float32)
    mask = masks_of(dataset)
    np.testing.assert_allclose(mask[0, :, :8], 1)
    np.testing.assert_allclose(mask[0, :, 8:], 0)


def test_alpha_is_the_mask_and_the_image_stays_on_white(tokenizer):
    pixels = np.full((64, 64, 4), 100, np.uint8)
    pixels[..., 3] = np.where(np.arange(64) < 32, 255, 0)
    pairs = [(pixels, "a"), (photo(64, 64), "b")]
    dataset = load(
        pairs,
        tokenizer,
        resolution=64,
        batch_size=2,
        shuffle=False,
        masks="alpha",
    )
    (batch,) = dataset
    np.testing.assert_allclose(batch["loss_mask"][0, :, :4], 1)
    np.testing.assert_allclose(batch["loss_mask"][0, :, 4:], 0)
    # An image without alpha counts whole.
    np.testing.assert_allclose(batch["loss_mask"][1], 1)
    plain = load(pairs, tokenizer, resolution=64, batch_size=2, shuffle=False)
    np.testing.assert_array_equal(batch["images"], next(iter(plain))["images"])


@pytest.mark.parametrize("resolution", [64, (64, 128), (128, 64)])
def test_masks_follow_crops_flips_and_scaling(resolution, tokenizer):
    # The mask is the picture itself, so they must stay alike.
    pixels = np.zeros((150, 210, 3), np.uint8)
    pixels[40:90, 30:120] = 255
    example = Example(pixels, "a", mask=pixels)
    dataset = load(
        [example] * 8,
        tokenizer,
        resolution=resolution,
        batch_size=8,
        crop="random",
        horizontal_flip=True,
        masks="files",
    )
    (batch,) = dataset
    images = (batch["images"].numpy()[..., :1] + 1) / 2
    rows, columns = images.shape[1] // 8, images.shape[2] // 8
    means = images.reshape(8, rows, 8, columns, 8, 1).mean(axis=(2, 4))
    # Lanczos and bilinear differ by little, and only at edges.
    np.testing.assert_allclose(batch["loss_mask"], means, atol=0.06)
    assert len({mask.tobytes() for mask in batch["loss_mask"].numpy()}) == 8


def test_masks_of_photos_that_are_decoded_smaller(tmp_path, tokenizer):
    pixels = np.zeros((803, 1205, 3), np.uint8)
    pixels[200:500, 100:700] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(pixels).save(tmp_path / "a-masklabel.png")
    (tmp_path / "a.txt").write_text("a")
    (batch,) = load(
        tmp_path,
        tokenizer,
        resolution=64,
        batch_size=1,
        crop="random",
        masks="files",
    )
    images = (batch["images"].numpy()[..., :1] + 1) / 2
    means = images.reshape(1, 8, 8, 8, 8, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(batch["loss_mask"], means, atol=0.06)


def test_masks_have_the_bucket_s_size(tokenizer):
    examples = [
        Example(photo(60, 110), "a", mask=left_half(60, 110)),
        Example(photo(80, 80), "b"),
    ]
    dataset = load(
        examples,
        tokenizer,
        resolution=256,
        batch_size=1,
        masks="files",
        buckets=True,
    )
    spec = dataset.element_spec["loss_mask"]
    assert spec == tf.TensorSpec((1, None, None, 1), tf.float32)
    for batch in dataset:
        height, width = batch["images"].shape[1:3]
        assert batch["loss_mask"].shape == (1, height // 8, width // 8, 1)


def test_a_mask_lies_as_its_exif_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    left_half(64, 128).save(tmp_path / "m.png", exif=exif)
    example = Example(photo(128, 64), ("a",), mask=tmp_path / "m.png")
    _, mask = read_masked(example, "files")
    assert mask.size == (64, 128)
    # Turned to the right, left becomes up.
    assert np.asarray(mask)[:64].min() == 255
    assert np.asarray(mask)[64:].max() == 0


def test_a_mask_of_another_size_is_refused_by_name(tmp_path, tokenizer):
    with_files(tmp_path)
    left_half(32, 64).save(tmp_path / "a-masklabel.png")
    with pytest.raises(
        ValueError, match="a.png.*mask has 64x32 pixels and the image 128x64"
    ):
        load(tmp_path, tokenizer, resolution=64, batch_size=1, masks="files")


def test_a_mask_that_cannot_be_read_is_refused_by_name(tmp_path, tokenizer):
    with_files(tmp_path)
    (tmp_path / "a-masklabel.png").write_bytes(b"")
    with pytest.raises(ValueError, match="a.png: its mask: the file is empty"):
        load(tmp_path, tokenizer, resolution=64, batch_size=1, masks="files")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("files", "none of 1 images has one.*-masklabel.png"),
        ("alpha", "none of 1 images has one.*transparency"),
        ("file", "Did you mean 'files'"),
    ],
)
def test_no_masks_at_all_are_refused(kind, words, tokenizer):
    with pytest.raises(ValueError, match=words):
        load(
            [(photo(64, 64), "a")],
            tokenizer,
            resolution=64,
            batch_size=1,
            masks=kind,
        )


def test_a_table_without_the_column_is_refused(tmp_path, tokenizer):
    with_table(tmp_path)
    with pytest.raises(ValueError, match="no column 'mask'.*`mask_column`"):
        load(tmp_path, tokenizer, masks="files", mask_column="mask")


def test_masks_that_are_not_asked_for(tmp_path, tokenizer, caplog):
    with_files(tmp_path)
    dataset = load(tmp_path, tokenizer, resolution=64, batch_size=1)
    assert dataset.cardinality() == 1
    assert "loss_mask" not in dataset.element_spec
    assert "1 masks lie beside the images" in caplog.text


def test_a_mask_without_an_image_is_refused(tmp_path, tokenizer):
    with_files(tmp_path)
    left_half(64, 128).save(tmp_path / "b-masklabel.png")
    with pytest.raises(ValueError, match="1 masks have no image: 'b-mask"):
        load(tmp_path, tokenizer, resolution=64, batch_size=1)


def test_a_mask_lost_while_training_is_reported(tmp_path, tokenizer):
    with_files(tmp_path)
    examples = [
        Example(tmp_path / "a.png", "a", mask=tmp_path / "a-masklabel.png"),
        Example(photo(64, 128), "b", mask=left_half(64, 128)),
    ]
    report = Report()
    dataset = load(
        examples,
        tokenizer,
        resolution=64,
        batch_size=2,
        masks="files",
        report=report,
    )
    (tmp_path / "a-masklabel.png").unlink()
    assert len(masks_of(dataset)) == 2
    ((_, reason),) = report.rows
    assert reason == "its mask: the file does not exist"

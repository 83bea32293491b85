import collections

import numpy as np
import pytest
from PIL import Image

from keras_sdft import data
from keras_sdft.data.sources.dreambooth import add_to_record
from keras_sdft.data.sources.dreambooth import read_record
from keras_sdft.models import PRESETS
from keras_sdft.runs.class_images import ClassImageOptions
from keras_sdft.runs.class_images import generate_class_images

PROMPT = "a photo of dog"


class FakeStableDiffusion:
    """Paints each image in a colour that is its seed; may stop halfway."""

    img_height, img_width = 64, 128
    base = "fake"

    spec = PRESETS["sd1.4"].spec

    def __init__(self, stop_at=None):
        self.batches = []
        self.stop_at = stop_at

    def encode_text(self, prompt):
        self.prompt = prompt
        return np.zeros((1, 77, 8), np.float32)

    def generate_image(self, context, batch_size, seed, **arguments):
        if len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        assert len(seed) == batch_size
        self.batches.append((batch_size, arguments))
        values = [each % 256 for each in seed]
        images = np.zeros((batch_size, 64, 128, 3), np.uint8)
        images[...] = np.reshape(values, (-1, 1, 1, 1))
        return images


def generate(folder, model=None, num_images=6, **options):
    model = model or FakeStableDiffusion()
    given = {"progress": False}
    names = ("seed", "negative_prompt", "progress")
    given |= {name: options.pop(name) for name in names if name in options}
    options = ClassImageOptions(num_class_images=num_images, **options)
    paths = generate_class_images(model, PROMPT, folder, options, **given)
    return model, paths


def missing(folder, num_images, prompt=PROMPT, **options):
    asked = ClassImageOptions(num_class_images=num_images)
    return asked.missing(prompt, str(folder), (512, 512), **options)


def test_an_empty_folder_needs_them_all(tmp_path):
    expected = [("seed-0000000007.png", 7), ("seed-0000000008.png", 8)]
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert missing(folder, 2, seed=7) == expected
    assert list(tmp_path.iterdir()) == []


def test_all_images_count_and_used_seeds_are_left_out(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("seed-0000000001.png", "my own dog.jpg", "more/a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "seed-0000000002.png.123.tmp").write_bytes(b"half")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert [seed for _, seed in missing(tmp_path, 6)] == [0, 2, 3]
    assert missing(tmp_path, 3) == missing(tmp_path, 1) == []


def test_images_of_another_prompt_are_refused(tmp_path):
    for name in ("a.png", "seed-0000000000.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    row = {"file_name": "seed-0000000000.png", "text": "a cat"}
    add_to_record(tmp_path, row)
    assert len(missing(tmp_path, 4, "a cat")) == 2
    with pytest.raises(ValueError, match="1 images in.*'a cat'.*'a dog'"):
        missing(tmp_path, 4, "a dog")


@pytest.mark.parametrize(
    ("num_images", "seed", "words"),
    [
        (0, 0, "`num_class_images`.*>= 1"),
        (2.5, 0, "`num_class_images`"),
        (2, -1, "`seed`"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, num_images, seed, words):
    with pytest.raises(ValueError, match=words):
        missing(tmp_path, num_images, seed=seed)


def test_a_full_disk_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    asked = []

    def usage(folder):
        asked.append(folder)
        return collections.namedtuple("usage", "free")(10_000_000)

    monkeypatch.setattr("shutil.disk_usage", usage)
    folder = tmp_path / "new" / "folder"
    # 512 * 512 * 3 + 4096 = 790,528 bytes an image.
    assert len(missing(folder, 12)) == 12
    with pytest.raises(OSError, match=r"`num_class_images` \(13 .*10.0 MB are"):
        missing(folder, 13)
    assert set(asked) == {str(tmp_path)} and not folder.exists()


def test_images_are_generated_in_batches_of_one_size(tmp_path):
    model, paths = generate(
        tmp_path / "class", class_num_steps=9, class_guidance_scale=3.0
    )
    sizes = [size for size, _ in model.batches]
    assert sizes == [4, 4] and model.prompt == PROMPT
    assert model.batches[0][1] == {
        "negative_prompt": None,
        "num_steps": 9,
        "guidance_scale": 3.0,
    }
    names = [f"seed-{seed:010d}.png" for seed in range(6)]
    assert paths == [str(tmp_path / "class" / name) for name in names]
    assert sorted(path.name for path in (tmp_path / "class").iterdir()) == [
        "class_images.jsonl",
        *names,
    ]


def test_each_image_is_its_own_seed_s(tmp_path):
    model, paths = generate(tmp_path, seed=10)
    for seed, path in zip(range(10, 16), paths, strict=True):
        with Image.open(path) as image:
            assert image.size == (128, 64)
            assert image.getpixel((0, 0)) == (seed,) * 3
            assert image.text["seed"] == str(seed)
            assert image.text["prompt"] == PROMPT
    record = read_record(tmp_path)
    assert [row["seed"] for row in record.values()] == list(range(10, 16))
    assert record["seed-0000000012.png"] == {
        "file_name": "seed-0000000012.png",
        "text": PROMPT,
        "negative_prompt": "",
        "num_steps": 50,
        "guidance_scale": 7.5,
        "model": "fake",
        "seed": 12,
        "height": 64,
        "width": 128,
    }


def test_a_folder_is_topped_up(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "my own.png")
    _, first = generate(tmp_path, num_images=3)
    assert len(first) == 2
    model, second = generate(tmp_path, num_images=5)
    assert [path[-7:] for path in second] == ["002.png", "003.png"]
    # Fewer than a batch are generated as they are.
    assert [size for size, _ in model.batches] == [2]
    model, third = generate(tmp_path, num_images=5)
    assert third == [] and model.batches == []


def test_a_stopped_run_leaves_whole_images_and_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, FakeStableDiffusion(stop_at=1))
    images = sorted(tmp_path.glob("*.png"))
    assert len(images) == 4
    for path in images:
        with Image.open(path) as image:
            image.load()
    before = [path.read_bytes() for path in images]
    _, paths = generate(tmp_path)
    assert [path[-7:] for path in paths] == ["004.png", "005.png"]
    assert [path.read_bytes() for path in images] == before
    _, again = generate(tmp_path / "other")
    for path, other in zip(sorted(tmp_path.glob("*.png")), again, strict=True):
        with Image.open(path) as one, Image.open(other) as two:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_an_image_that_cannot_be_written_leaves_none(tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["class_images.jsonl"]
    monkeypatch.undo()
    _, paths = generate(tmp_path)
    assert len(paths) == 6 and len(read_record(tmp_path)) == 6


def test_another_prompt_s_images_are_refused_before_drawing(tmp_path):
    generate(tmp_path)
    model = FakeStableDiffusion()
    with pytest.raises(ValueError, match="another class prompt"):
        generate_class_images(
            model, "a photo of cat", tmp_path, ClassImageOptions()
        )
    assert model.batches == []


def test_a_full_disk_is_refused_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})
    )
    model = FakeStableDiffusion()
    with pytest.raises(OSError, match="`num_class_images` .* needs"):
        generate(tmp_path / "class", model)
    assert model.batches == [] and not (tmp_path / "class").exists()


def test_a_bad_batch_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sample_batch_size=0"):
        generate(tmp_path, sample_batch_size=0)


def test_the_bar_begins_at_what_is_there(tmp_path, capsys):
    generate(tmp_path, num_images=2)
    generate(tmp_path, num_images=4, progress=True)
    shown = capsys.readouterr().err
    assert "class images" in shown and "4/4" in shown and "2/4" in shown


def test_what_was_generated_is_read_as_class_images(tmp_path):
    _, paths = generate(tmp_path / "class")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    found = data.check_dreambooth_folders(
        tmp_path / "photos", tmp_path / "class", PROMPT
    )
    assert found == (1, len(paths))


def test_the_real_model_generates_the_same_from_the_seed(tmp_path, make_micro):
    sd = make_micro()
    # Tracing costs more than drawing.
    for network in (sd.text_encoder, sd.diffusion_model, sd.decoder):
        network.run_eagerly = True
    paths = generate_class_images(
        sd,
        PROMPT,
        tmp_path,
        ClassImageOptions(num_class_images=3, class_num_steps=2),
        progress=False,
    )
    with Image.open(paths[1]) as image:
        generated = np.asarray(image).astype(int)
    expected = sd.text_to_image(PROMPT, num_steps=2, seed=1)[0].astype(int)
    # Batches of another size round in other places.
    assert np.abs(generated - expected).max() <= 1
    assert expected.std() > 1

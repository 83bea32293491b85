import io
import os
import struct
import subprocess
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft.data.images import Decoding
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import crop_box
from keras_sdft.data.images import cut
from keras_sdft.data.images import read_image
from keras_sdft.data.images import to_rgb


def encode(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fit(image, height, width, top=None, left=None, flip=False):
    box = crop_box(image.size, height, width, top, left)
    return np.asarray(cut(image, box, height, width, flip))


def pixel(image, x=0, y=0):
    assert image.mode == "RGB"
    return image.getpixel((x, y))


# Where the four corners of an upright a b / c d stand in the stored picture,
# row by row, for each value of the EXIF tag (TIFF 6.0, "Orientation").
STORED = {
    1: ["ab", "cd"],
    2: ["ba", "dc"],
    3: ["dc", "ba"],
    4: ["cd", "ab"],
    5: ["ac", "bd"],
    6: ["bd", "ac"],
    7: ["db", "ca"],
    8: ["ca", "db"],
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_turns_the_picture_upright(orientation):
    greys = {"a": 10, "b": 80, "c": 150, "d": 220}
    stored = np.array([[greys[c] for c in row] for row in STORED[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(stored.astype(np.uint8)), exif=exif)
    upright = np.asarray(read_image(data))[..., 0]
    assert upright.tolist() == [[10, 80], [150, 220]]


def test_broken_exif_does_not_hide_the_picture():
    data = encode(Image.new("RGB", (8, 8), (1, 2, 3)), exif=b"Exif\0\0broken")
    assert pixel(read_image(data)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (0, 0), (255, 255, 255)),
        ("La", (0, 0), (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        # 128/255 of red on white: green is 255 * (1 - 128/255) = 127.
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("RGBa", (128, 0, 0, 128), (255, 127, 127)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        # 65535 / 257 = 255; 25700 / 257 = 100; 300 / 257 rounds to 1.
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 25700, (100, 100, 100)),
        ("I;16B", 25700, (100, 100, 100)),
        ("I;16", 300, (1, 1, 1)),
        ("I", 25700, (100, 100, 100)),
        ("F", 0.2, (51, 51, 51)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, expected):
    assert pixel(to_rgb(Image.new(mode, (3, 2), value))) == expected


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    read = read_image(encode(image, transparency=0))
    assert pixel(read, 0) == (255, 255, 255)
    assert pixel(read, 1) == (40, 50, 60)


def test_transparent_colour_of_an_rgb_png_becomes_white():
    data = encode(Image.new("RGB", (2, 2), (9, 8, 7)), transparency=(9, 8, 7))
    assert pixel(read_image(data)) == (255, 255, 255)


def test_sixteen_bit_png_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 25700, 65535]], np.uint16)
    read = read_image(encode(Image.fromarray(values)))
    assert np.asarray(read)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_first_frame_of_an_animation_is_read():
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    data = encode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert pixel(read_image(data)) == (50, 50, 50)


@pytest.mark.parametrize(
    "shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)], ids=str
)
def test_arrays_of_every_shape(shape):
    read = read_image(np.full(shape, 255, np.uint8))
    assert read.size == (6, 4)
    assert pixel(read) == (255, 255, 255)


def test_a_callers_picture_is_not_changed():
    image = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    read = read_image(image, (64, 64))
    assert (read.size, image.size, image.mode) == ((6, 8), (8, 6), "RGBA")


def test_jpeg_is_decoded_small_but_at_least_twice_the_target():
    data = encode(Image.new("RGB", (1600, 800), (200, 30, 30)), "jpeg")
    # 64 rows need 128; 800 / 4 = 200 is the smallest eighth above it.
    assert read_image(data, (64, 64)).size == (400, 200)
    assert read_image(data, (512, 512)).size == (1600, 800)
    assert read_image(data).size == (1600, 800)


def test_jpeg_on_its_side_is_decoded_for_its_upright_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (1600, 800)), "jpeg", exif=exif)
    # Upright it is 800x1600. 64 high and 512 wide needs 2 * 512 columns.
    assert read_image(data, (64, 512)).size == (800, 1600)
    assert read_image(data, (64, 64)).size == (200, 400)


@pytest.mark.parametrize(
    ("size", "target", "place", "expected"),
    [
        # A square of a wide picture, no resizing: (200 - 100) / 2 = 50.
        ((200, 100), (100, 100), (None, None), (50, 0, 150, 100)),
        ((100, 200), (100, 100), (None, None), (0, 50, 100, 150)),
        ((200, 100), (100, 100), (0.0, 0.0), (0, 0, 100, 100)),
        ((200, 100), (100, 100), (0.999, 0.999), (100, 0, 200, 100)),
        # Halved: the crop of 50 from 100 columns begins at 25, or 50 before.
        ((200, 100), (50, 50), (None, None), (50, 0, 150, 100)),
        # An odd pixel to spare stays a whole pixel.
        ((101, 100), (100, 100), (None, None), (0, 0, 100, 100)),
        # Enlarged four times: 64 rows and 128 columns, of which 64.
        ((32, 16), (64, 64), (None, None), (8, 0, 24, 16)),
    ],
)
def test_crop_box_by_hand(size, target, place, expected):
    assert crop_box(size, *target, *place) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(77, 191), (1, 900), (900, 1), (333, 64)])
@pytest.mark.parametrize("place", [None, 0.0, 0.5, 0.9999])
def test_crop_box_stays_inside_and_keeps_the_aspect(size, place):
    left, top, right, bottom = crop_box(size, 128, 192, place, place)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert (right - left) / (bottom - top) == pytest.approx(1.5, rel=1e-6)


def test_pixels_that_need_no_resizing_are_kept_bit_by_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 129, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert (fit(image, 64, 64) == pixels[:, 32:96]).all()
    assert (fit(image, 64, 64, 0.0, 0.0) == pixels[:, :64]).all()
    assert (fit(image, 64, 64, 0.99, 0.99) == pixels[:, 65:]).all()
    mirrored = fit(image, 64, 64, flip=True)
    assert (mirrored == pixels[:, 32:96][:, ::-1]).all()


def test_shrinking_is_antialiased():
    # Columns of black and white, one pixel wide, become grey, not stripes.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = fit(Image.fromarray(stripes), 64, 64)
    assert np.abs(small[:, 4:-4].astype(int) - 128).max() <= 3


def png_header(width, height):
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    chunk = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is no picture", "not an image"),
    "truncated png": (encode(Image.fromarray(NOISE))[:5000], "truncated"),
    "truncated jpeg": (
        encode(Image.fromarray(NOISE), "jpeg")[:1500],
        "truncated",
    ),
    "0 pixels": (png_header(0, 64), "without pixels"),
    "30,000 pixels": (png_header(30_000, 100), "30000x100"),
    "30,000 pixels squared": (png_header(30_000, 30_000), "900000000"),
    "too many pixels": (png_header(16_000, 9_000), "16000x9000"),
    "too many to decode": (png_header(12_000, 9_000), "and 67108864 in all"),
    "another format": (encode(Image.new("RGB", (9, 9)), "tga"), "not read"),
    "array of floats": (np.zeros((4, 4, 3), np.float32), "uint8"),
    "array of five channels": (np.zeros((4, 4, 5), np.uint8), "(4, 4, 5)"),
    "array without pixels": (np.zeros((0, 4, 3), np.uint8), "0 pixels"),
    "float outside [0, 1]": (Image.new("F", (2, 2), 3.0), "outside [0, 1]"),
    "not a number": (Image.new("F", (2, 2), float("nan")), "outside [0, 1]"),
    "missing": ("/nowhere/at/all.png", "does not exist"),
    "a folder": ("/", "directory"),
    "neither": (3.5, "float"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_the_reason(name):
    source, reason = BAD[name]
    with pytest.raises(UnreadableImage) as error:
        read_image(source, (64, 64))
    assert reason in str(error.value)


def test_a_damaged_jpeg_is_found_even_when_decoded_small():
    big = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    data = encode(Image.fromarray(big), "jpeg")
    assert read_image(data, (64, 64)).size == (128, 128)
    with pytest.raises(UnreadableImage, match="truncated"):
        read_image(data[: len(data) // 2], (64, 64))


def test_inside_dataset_map_as_eagerly():
    images = [np.roll(NOISE, i, axis=0) for i in range(4)]

    def shrink(array):
        return fit(read_image(array), 32, 32, 0.3, 0.6)

    dataset = tf.data.Dataset.from_tensor_slices(np.stack(images)).map(
        lambda image: tf.numpy_function(shrink, [image], tf.uint8),
        num_parallel_calls=2,
    )
    for image, mapped in zip(images, dataset, strict=True):
        assert (mapped.numpy() == shrink(image)).all()


def test_a_file_that_runs_a_program_is_not_opened(tmp_path, monkeypatch):
    def run(*arguments, **options):
        raise AssertionError("a program was started")

    for name in ("Popen", "check_call", "call", "run"):
        monkeypatch.setattr(subprocess, name, run)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.eps")
    path = (tmp_path / "a.eps").rename(tmp_path / "a.png")
    for source in (path, path.read_bytes()):
        with pytest.raises(UnreadableImage, match="format that is not read"):
            read_image(source)


def test_sixteen_bits_are_scaled_in_little_memory():
    values = np.arange(2**22, dtype=np.uint32).reshape(2048, 2048) % 65536
    image = Image.fromarray(values.astype(np.uint16))
    tracemalloc.start()
    found = to_rgb(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # As float64 alone it would be 33.6 MB.
    assert peak < 32e6
    expected = np.round(values * (255 / 65535)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(found)[..., 0], expected)


def test_few_large_images_are_decoded_at_once():
    decoding = Decoding(10)
    running, most = 0, 0
    lock = threading.Lock()

    def decode(pixels):
        nonlocal running, most
        with decoding.held():
            decoding.take(pixels)
            # A mask of the same image does not wait for others.
            decoding.take(1)
            with lock:
                running += pixels
                most = max(most, running)
            threading.Event().wait(0.01)
            with lock:
                running -= pixels

    threads = [
        threading.Thread(target=decode, args=(pixels,))
        for pixels in (4, 6, 3, 9, 4, 12, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    # One that is too large for the limit goes alone.
    assert 4 < most <= 12


@pytest.mark.usefixtures("without_heif")
def test_heic_is_named_with_its_remedy(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UnreadableImage, match="pip install pillow-heif"):
        read_image(tmp_path / "a.HEIC")


def test_heic_is_read(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), "uint8")
    pixels[:32] = 255
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.HEIC")
    found = np.asarray(read_image(tmp_path / "a.HEIC"))
    assert found.shape == (64, 96, 3)
    assert found[:28].min() > 239 and found[36:].max() < 16


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="no regular file"):
        read_image(tmp_path / "a.png")

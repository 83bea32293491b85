import os

import numpy as np
import pytest
from PIL import Image

from keras_sdft.callbacks import image_grid
from keras_sdft.callbacks import save_png
from keras_sdft.callbacks.grid import _LABEL_HEIGHT as LABEL_HEIGHT
from keras_sdft.callbacks.grid import _LABEL_WIDTH as LABEL_WIDTH
from keras_sdft.callbacks.grid import stack


def colours(count, height=4, width=6):
    images = np.zeros((count, height, width, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None] + 1
    return images


def test_images_stand_in_rows_two_pixels_apart():
    grid = image_grid(colours(3))
    assert grid.size == (2 * 6 + 2, 2 * 4 + 2)
    pixels = np.asarray(grid)
    assert pixels[0, 0].tolist() == [1, 0, 0]
    assert pixels[0, 8].tolist() == [2, 0, 0]
    assert pixels[6, 0].tolist() == [3, 0, 0]
    # The gap and the place nobody fills are white.
    assert pixels[0, 6].tolist() == [255, 255, 255]
    assert pixels[9, 13].tolist() == [255, 255, 255]


def test_one_image_is_the_image():
    grid = image_grid(colours(1))
    np.testing.assert_array_equal(np.asarray(grid), colours(1)[0])


def test_labels_stand_left_of_their_row():
    grid = image_grid(colours(4, height=64), labels=["a red heart", ""])
    assert grid.size == (LABEL_WIDTH + 2 * 6 + 2, 2 * 64 + 2)
    pixels = np.asarray(grid)
    assert pixels[0, LABEL_WIDTH].tolist() == [1, 0, 0]
    assert pixels[66, LABEL_WIDTH].tolist() == [3, 0, 0]
    for top in (0, 66):
        label = pixels[top : top + 64, :LABEL_WIDTH]
        assert (label < 128).any()


def test_column_labels_stand_on_top():
    images = colours(4, height=64, width=64)
    grid = image_grid(
        images, 2, labels=["up", "down"], column_labels=["a cat", ""]
    )
    assert grid.size == (LABEL_WIDTH + 130, LABEL_HEIGHT + 130)
    pixels = np.asarray(grid)
    assert pixels[LABEL_HEIGHT, LABEL_WIDTH].tolist() == [1, 0, 0]
    assert pixels[LABEL_HEIGHT + 66, LABEL_WIDTH + 66].tolist() == [4, 0, 0]
    for left in (0, 66):
        label = pixels[:LABEL_HEIGHT, LABEL_WIDTH + left :][:, :64]
        assert (label < 128).any()


def test_labels_must_fit_the_columns():
    with pytest.raises(ValueError, match="one string per column.*1 labels"):
        image_grid(colours(4), 2, column_labels=["a"])


def test_stacked_grids_are_left_aligned_on_white():
    wide, narrow = image_grid(colours(2), 2), image_grid(colours(1), 1)
    pixels = np.asarray(stack([wide, narrow]))
    assert pixels.shape == (4 + 2 + 4, 14, 3)
    assert pixels[6, 0].tolist() == [1, 0, 0]
    assert pixels[6, 8].tolist() == [255, 255, 255]


def test_long_labels_and_other_scripts_stay_inside():
    labels = ["word " * 200, "одно 赤い心 " * 40]
    grid = image_grid(colours(2, height=64), labels=labels)
    pixels = np.asarray(grid)
    # White between the label and the image: nothing ran over.
    assert (pixels[:, LABEL_WIDTH - 1] == 255).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 1), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
    ],
)
def test_only_batches_of_rgb_bytes(images):
    with pytest.raises(ValueError, match="uint8 array of shape"):
        image_grid(images)


def test_labels_must_match_the_rows():
    with pytest.raises(ValueError, match="3 labels for 2 rows"):
        image_grid(colours(4), columns=2, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="columns"):
        image_grid(colours(4), columns=0)


def test_png_keeps_its_text(tmp_path):
    path = tmp_path / "new" / "a.png"
    save_png(image_grid(colours(1)), path, {"prompt": "un cœur", "seed": "3"})
    with Image.open(path) as image:
        assert image.text == {"prompt": "un cœur", "seed": "3"}
        assert image.size == (6, 4)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, file, **arguments):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(Image.new("RGB", (2, 2)), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]

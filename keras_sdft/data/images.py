"""Images: files, bytes and arrays -> uint8 RGB pixels of one size.

Must not know captions or TensorFlow; chance enters as numbers that were drawn.
"""

import contextlib
import functools
import io
import math
import os
import threading
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from PIL import Image
from PIL import UnidentifiedImageError

from keras_sdft.data.options import MAX_SIDE

MAX_PIXELS = 2**27
# So many are decoded of one image, and at once in all threads: 4 bytes each.
# A JPEG is decoded at a smaller scale.
MAX_DECODED = 2**26

# No others are opened, whatever a file is named: Pillow runs Ghostscript for
# an EPS.
_FORMATS = "AVIF BMP GIF HEIF JPEG PNG PPM TIFF WEBP".split()
# Read where `pillow-heif` is installed.
HEIF_EXTENSIONS = frozenset((".heic", ".heif", ".hif"))

_BLOCK = 2**18

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

# A Pillow image of the caller's is decoded once, in place, when first used;
# two threads must not do so at the same time.
_CALLERS_IMAGES = threading.Lock()


class UnreadableImage(ValueError):
    """An image that cannot be read; its text is the reason."""


class Decoding:
    """Bounds how many pixels are decoded at once, over all threads."""

    def __init__(self, limit: int):
        self._limit = limit
        self._used = 0
        self._freed = threading.Condition()
        self._own = threading.local()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Counts what the thread decodes in the block until its end."""
        if getattr(self._own, "pixels", None) is not None:
            yield
            return
        self._own.pixels = 0
        try:
            yield
        finally:
            with self._freed:
                self._used -= self._own.pixels
                self._freed.notify_all()
            self._own.pixels = None

    def take(self, pixels: int) -> None:
        """Waits until so many pixels more may be decoded, inside `held`."""
        with self._freed:
            # Who holds an image may have its mask at once: two threads that
            # do would wait for each other.
            if not self._own.pixels:
                self._freed.wait_for(
                    lambda: not self._used or self._used + pixels <= self._limit
                )
            self._used += pixels
        self._own.pixels += pixels


DECODING = Decoding(MAX_DECODED)


@functools.cache
def reads_heif() -> bool:
    """Tells whether HEIC files can be read: where `pillow-heif` is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@functools.cache
def _formats() -> list[str]:
    reads_heif()
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: alpha on white, 16 bits scaled to 8.

    Mode `"I"` is read as 16 bits, as Pillow opens some 16-bit files, and mode
    `"F"` as `[0, 1]`; values outside raise `UnreadableImage`.
    """
    if image.mode == "I" or image.mode.startswith("I;"):
        return _from_range(np.asarray(image), 65535, image.mode)
    if image.mode == "F":
        return _from_range(np.asarray(image), 1, image.mode)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = to_rgba(image)
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def read_image(
    source: Any,
    size: tuple[int, int] | None = None,
    convert: Callable[[Image.Image], Image.Image] = to_rgb,
) -> Image.Image:
    """Reads an image and turns it upright.

    Args:
        source: As `Example.image`; a caller's image is not changed.
        size: `(height, width)` that the image will be resized to. A JPEG is
            then decoded at a smaller scale, at least twice as large as that
            needs. `None` decodes every pixel.
        convert: Function of the decoded image that returns it in the form
            that is wanted. Defaults to `to_rgb`.

    Raises:
        UnreadableImage: If it is empty, truncated, corrupt, of a format that is
            not read, or beyond `MAX_SIDE`, `MAX_PIXELS` or `MAX_DECODED`.
    """
    with _told(source), DECODING.held(), _opened(source) as image:
        _check_pixels(image.size, MAX_PIXELS)
        orientation = _orientation(image)
        if size is not None and image is not source:
            _draft(image, size, orientation)
        _check_pixels(image.size, MAX_DECODED)
        DECODING.take(image.size[0] * image.size[1])
        with _CALLERS_IMAGES if image is source else nullcontext():
            image.load()
        converted = convert(image)
        turn = _TURNS.get(orientation)
        return converted if turn is None else converted.transpose(turn)


def image_format(data: bytes) -> str | None:
    """Returns the format of a file, `"png"`, or `None` if it is not read."""
    try:
        with _told(data), _opened(data) as image:
            return str(image.format).lower()
    except UnreadableImage:
        return None


def image_size(source: Any) -> tuple[int, int]:
    """Returns `(height, width)` of the upright image, not decoding it."""
    with _told(source), _opened(source) as image:
        sideways = _orientation(image) in _SIDEWAYS
        return image.size if sideways else image.size[::-1]


def has_alpha(source: Any) -> bool:
    """Tells whether an image has transparency, not decoding it."""
    with _told(source), _opened(source) as image:
        return image.has_transparency_data


def to_rgba(image: Image.Image) -> Image.Image:
    """Converts an image with transparency to RGBA."""
    # Premultiplied modes convert only to their own plain form.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(plain) if plain else image).convert("RGBA")


def cut(
    image: Image.Image,
    box: tuple[float, float, float, float],
    height: int,
    width: int,
    flip: bool = False,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Resizes the part of an image that `crop_box` returns, antialiased."""
    image = image.resize((width, height), resample, box=box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def crop_box(
    size: tuple[int, int],
    height: int,
    width: int,
    top: float | None = None,
    left: float | None = None,
) -> tuple[float, float, float, float]:
    """Returns the part of an image that a crop of the resized image shows.

    The aspect ratio is kept: one side fits, the other is cropped. The crop
    begins on a whole pixel of the resized image, so an image that is not
    resized is not blurred either.

    Args:
        size: `(width, height)` of the image, as Pillow gives it.
        height: Integer, pixels of the crop.
        width: Integer, pixels of the crop.
        top: Float in `[0, 1)`, at which of the possible rows the crop begins.
            `None` takes the centre.
        left: Float in `[0, 1)`, the same for columns.

    Returns:
        `(left, top, right, bottom)` in pixels of the image before resizing.
    """
    ratio = max(width / size[0], height / size[1])
    x = _offset(size[0] * ratio - width, left)
    y = _offset(size[1] * ratio - height, top)
    return (
        x / ratio,
        y / ratio,
        min((x + width) / ratio, size[0]),
        min((y + height) / ratio, size[1]),
    )


def _offset(slack: float, fraction: float | None) -> int:
    # The small term keeps a whole number of pixels from being rounded down.
    slack = max(0, math.floor(slack + 1e-6))
    return slack // 2 if fraction is None else int(fraction * (slack + 1))


@contextlib.contextmanager
def _told(source: Any) -> Iterator[None]:
    """Context manager in which every failure is an `UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    # Decoders raise nearly every class of error on a damaged file.
    except Exception as error:
        raise UnreadableImage(_reason(source, error)) from error


def _opened(source: Any):
    """Returns a context that holds the Pillow image, and closes only ours."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, np.ndarray):
        return nullcontext(_from_array(source))
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif os.path.exists(source) and not os.path.isfile(source):
        # A pipe would be waited for without end.
        raise UnreadableImage("a directory, or no regular file")
    return Image.open(source, formats=_formats())


def _from_array(array: np.ndarray) -> Image.Image:
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if array.dtype != np.uint8 or not (grey or colour):
        raise UnreadableImage(
            "an array must be uint8 of shape (H, W), (H, W, 1), (H, W, 3) or "
            f"(H, W, 4), not {array.dtype} of shape {array.shape}"
        )
    _check_pixels(array.shape[1::-1], MAX_DECODED)
    one = colour and array.shape[2] == 1
    return Image.fromarray(array[..., 0] if one else array)


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if not width or not height:
        raise UnreadableImage(f"0 pixels ({width}x{height})")
    if max(size) > MAX_SIDE or width * height > most:
        raise UnreadableImage(
            f"{width}x{height} pixels, and the budget is {MAX_SIDE} on a side "
            f"and {most} in all; save it smaller, or as JPEG"
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    # A camera's broken EXIF block says nothing against its image.
    except Exception:
        return 1


def _draft(image: Image.Image, size: tuple[int, int], orientation: int) -> None:
    height, width = size[::-1] if orientation in _SIDEWAYS else size
    columns, rows = image.size
    ratio = 2 * max(width / columns, height / rows)
    if ratio < 1:
        image.draft(None, (math.ceil(columns * ratio), math.ceil(rows * ratio)))


def _from_range(array: np.ndarray, largest: int, mode: str) -> Image.Image:
    # A comparison that fails on NaN as well.
    if not (array.min() >= 0 and array.max() <= largest):
        raise UnreadableImage(
            f"mode {mode!r} with values outside [0, {largest}]: "
            f"[{array.min()}, {array.max()}]"
        )
    scaled = np.empty(array.shape, np.uint8)
    # In blocks: as float64 the whole would take eight times as much.
    step = max(1, _BLOCK // array.shape[1])
    for top in range(0, len(array), step):
        rows = slice(top, top + step)
        values = array[rows].astype(np.float64)
        scaled[rows] = np.round(values * (255 / largest))
    return Image.fromarray(scaled).convert("RGB")


def _reason(source: Any, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        is_path = isinstance(source, (str, os.PathLike))
        if not (os.path.getsize(source) if is_path else source):
            return "the file is empty (0 bytes)"
        ending = os.path.splitext(str(source))[1].lower()
        if ending in HEIF_EXTENSIONS and not reads_heif():
            return "HEIC, which `pip install pillow-heif` makes readable"
        return (
            "not an image: corrupt, without pixels, or of a format that is "
            f"not read (read are {', '.join(_formats())})"
        )
    return f"{type(error).__name__}: {error}"

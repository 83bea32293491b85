"""Random access to TFRecord files, whose checksums are held to.

A TFRecord is a length (8 bytes), its checksum (4), the data, another (4).
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from typing import Any

import numpy as np

from keras_sdft.data.images import UnreadableImage

_HEADER, _FOOTER = 12, 4
_POLYNOMIAL = 0x82F63B78
# Checksums of so many bytes each are computed side by side.
_STRIPE = 64
_BITS = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))


@dataclasses.dataclass(frozen=True)
class TfRecords:
    """The records of TFRecord files on a local disk.

    Args:
        files: List of strings.
        file_of: Integer array of shape `(N,)`, the file of each record.
        offsets: Integer array of shape `(N,)`, where its data begins.
        lengths: Integer array of shape `(N,)`, its bytes.
        features: TFDS features, which decode the record.
        decoders: Dict of TFDS decoders.
    """

    files: list[str]
    file_of: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    features: Any
    decoders: dict

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict:
        """Returns the features; raises `UnreadableImage` on damage."""
        path = self.files[self.file_of[index]]
        length = int(self.lengths[index])
        try:
            with open(path, "rb") as file:
                file.seek(self.offsets[index])
                data = file.read(length + _FOOTER)
        except OSError as error:
            raise UnreadableImage(str(error)) from error
        if len(data) < length + _FOOTER or not _holds(data):
            raise UnreadableImage(
                f"damaged: its checksum does not hold (byte "
                f"{self.offsets[index]} of {path})"
            )
        return self.features.deserialize_example_np(
            data[:-_FOOTER], decoders=self.decoders
        )


def index_tfrecord(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns offset and length of each record, two int64 arrays.

    Raises:
        ValueError: If the file ends within a record, or a length is damaged.
    """
    offsets, lengths = [], []
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        position = 0
        while position < size:
            file.seek(position)
            header = file.read(_HEADER)
            if len(header) == _HEADER and not _holds(header):
                raise ValueError(
                    f"The TFRecord file {path} is damaged at byte {position}: "
                    "a checksum does not hold. Prepare the dataset again."
                )
            length = int.from_bytes(header[:8], "little")
            end = position + _HEADER + length + _FOOTER
            if end > size:
                raise ValueError(
                    f"The TFRecord file {path} ends within a record, at byte "
                    f"{size} instead of {end}. Prepare the dataset again."
                )
            offsets.append(position + _HEADER)
            lengths.append(length)
            position = end
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) checksum of bytes.

    References:
        RFC 3720, appendix B.4.
    """
    if len(data) < _STRIPE:
        state = 0xFFFFFFFF
        for value in data:
            state = (state >> 8) ^ int(_table()[(state ^ value) & 0xFF])
        return state ^ 0xFFFFFFFF
    # Leading zeros change nothing where the state begins with 0, which it does
    # once the first four bytes are inverted.
    rows = -(-len(data) // _STRIPE)
    rows = 1 << (rows - 1).bit_length()
    padded = np.zeros(rows * _STRIPE, np.uint8)
    own = padded[len(padded) - len(data) :]
    own[:] = np.frombuffer(data, np.uint8)
    own[:4] ^= 0xFF
    states = np.zeros(rows, np.uint32)
    for column in padded.reshape(rows, _STRIPE).T:
        states = (states >> 8) ^ _table()[(states ^ column) & 0xFF]
    level = _STRIPE.bit_length() - 1
    while len(states) > 1:
        states = _apply(_zeros(level), states[::2]) ^ states[1::2]
        level += 1
    return int(states[0]) ^ 0xFFFFFFFF


def _holds(data: bytes) -> bool:
    """Tells whether the last four bytes are the others' masked checksum."""
    value = crc32c(data[:-4])
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked == struct.unpack("<I", data[-4:])[0]


@functools.cache
def _table() -> np.ndarray:
    states: Any = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = (states >> 1) ^ (states & 1) * np.uint32(_POLYNOMIAL)
    return states


@functools.cache
def _zeros(level: int) -> np.ndarray:
    """What `2 ** level` zero bytes do to a state, for each of its bytes."""
    if level == 0:
        images = (_BITS >> 8) ^ _table()[_BITS & 0xFF]
    else:
        half = _zeros(level - 1)
        images = _apply(half, _apply(half, _BITS))
    values = np.arange(256, dtype=np.uint32)
    result = np.zeros((4, 256), np.uint32)
    for bit, image in enumerate(images.reshape(4, 8).T):
        result ^= (values >> bit & 1) * image[:, None]
    return result


def _apply(operator: np.ndarray, state: np.ndarray) -> np.ndarray:
    result = operator[0][state & 0xFF]
    for place in (1, 2, 3):
        result = result ^ operator[place][state >> (8 * place) & 0xFF]
    return result

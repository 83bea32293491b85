"""Damage: of bytes, of structures, and files that ask for too much."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

# What a number, a string or an object is replaced by.
NASTY = (
    None,
    True,
    -1,
    0,
    1,
    2.5,
    10**30,
    10**400,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "x",
    "a\ud800",
    "../../etc/passwd",
    "/dev/zero",
    "é" * 50_000,
    [],
    {},
    [1, 2],
    [None] * 1000,
    {"": {}},
    {"a": [{"b": [{}]}]},
)


def damage_bytes(random, data: bytes, other: bytes = b"") -> bytes:
    """Returns bytes with flipped bits, cuts, insertions and the like.

    Args:
        random: A NumPy generator.
        data: A valid file.
        other: A valid file of another kind.
    """
    data = bytearray(data)
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        place = int(random.integers(len(data) + 1))
        # Most formats are decided at the front.
        if random.random() < 0.5:
            place = min(place, int(random.integers(200)))
        size = int(random.integers(1, 40))
        match random.integers(9):
            case 0 if place < len(data):
                data[place] ^= 1 << int(random.integers(8))
            case 1:
                del data[place:]
            case 2:
                del data[place : place + size]
            case 3:
                data[place:place] = random.bytes(size)
            case 4:
                data[place : place + size] = bytes(size)
            case 5:
                data[place : place + size] = b"\xff" * size
            case 6:
                start = int(random.integers(len(data) + 1))
                data[place:place] = data[start : start + 8 * size]
            case 7:
                start = int(random.integers(len(other) + 1))
                data[place:place] = other[start : start + 8 * size]
            case _:
                data[place : place + 1] = bytes(data[place : place + 1]) * 500
    return bytes(data)


def damage_text(random, text: str) -> bytes:
    """Returns a text in a wrong encoding, or with odd characters."""
    lines = text.split("\n")
    place = int(random.integers(len(lines)))
    match random.integers(11):
        case 0:
            return text.encode("utf-16")
        case 1:
            return ("é" + text).encode("latin-1", "replace")
        case 2:
            return b"\xef\xbb\xbf" + text.encode()
        case 3:
            return text.replace("\n", "\r\n").encode()
        case 4:
            return (text + "\0" * 9).encode()
        case 5:
            lines[place] = '"' + lines[place]
        case 6:
            lines[place] += "x" * 200_000
        case 7:
            lines[place:place] = [""] * 3
        case 8:
            lines[place] = lines[place].replace(",", ";").replace(":", "=")
        case 9:
            lines[place:place] = [lines[place]] * 3
        case _:
            lines[place] = "\u202e\ud800".join(lines[place].split(" "))
            return "\n".join(lines).encode("utf-8", "surrogatepass")
    return "\n".join(lines).encode()


def damage_value(random, value):
    """Returns a JSON value with one to three parts of it replaced."""
    for _ in range(int(random.integers(1, 4))):
        value = _damage_once(random, value)
    return value


def _damage_once(random, value):
    if isinstance(value, dict) and value and random.random() < 0.9:
        value = dict(value)
        key = list(value)[int(random.integers(len(value)))]
        match random.integers(6):
            case 0:
                del value[key]
            case 1:
                value[key + "x"] = value.pop(key)
            case 2:
                value[key] = _nasty(random)
            case _:
                value[key] = _damage_once(random, value[key])
        return value
    if isinstance(value, list) and value and random.random() < 0.8:
        value = list(value)
        place = int(random.integers(len(value)))
        if random.random() < 0.3:
            value[place:place] = value[place : place + 1] * 5
        else:
            value[place] = _damage_once(random, value[place])
        return value
    if isinstance(value, int) and random.random() < 0.4:
        return value + int(random.integers(-3, 4))
    return _nasty(random)


def _nasty(random):
    return NASTY[int(random.integers(len(NASTY)))]


def damage_json(random, text: str) -> bytes:
    """Returns JSON with another structure, or one that asks for too much."""
    match random.integers(8):
        case 0:
            return b"[" * 100_000
        case 1:
            return b'{"a":' * 50_000
        case 2:
            return b"[" + b"{}," * 400_000 + b"{}]"
        case _:
            value = damage_value(random, json.loads(text))
            return json.dumps(value).encode()


def damage_safetensors(random, data: bytes) -> bytes:
    """Returns a safetensors file whose header was changed."""
    size = int.from_bytes(data[:8], "little")
    header = damage_json(random, data[8 : 8 + size].decode())
    length = len(header)
    if random.random() < 0.1:
        length = int(random.integers(2**62))
    rest = data[8 + size :]
    return length.to_bytes(8, "little") + header + rest


def damage_yaml(random, text: str) -> bytes:
    """Returns YAML with other values, tags, aliases or nesting."""
    lines = text.split("\n")
    place = int(random.integers(len(lines)))
    name = lines[place].partition(":")[0] or "x"
    values = (
        "!!python/object/apply:os.system ['true']",
        "&a [*a]",
        "[" * 3000,
        "{a: " * 500,
        "1e999",
        "0x" + "f" * 300,
        "9" * 5000,
        "2001-99-99",
        "0001-01-01 00:00:00",
        "!!binary x",
        "!!set {a, b}",
        "? ? ?",
        "'unclosed",
        "~",
        "-1",
        ".nan",
        "[1, [2, {3: 4}]]",
        "{1: 2}",
        "on",
        "x" * 100_000,
        "=",
        "<<",
        "!!timestamp x",
        "!!int x",
        "!!float x",
        "@",
        "%",
        "\t",
    )
    match random.integers(6):
        case 0:
            names = [line.partition(":")[0] for line in lines if line]
            rows = [f"{names[0]}: &a0 [x, x, x, x, x, x, x, x, x]"]
            for i, name in enumerate(names[1:], 1):
                ref = ", ".join([f"*a{i - 1}"] * 9)
                rows.append(f"{name}: &a{i} [{ref}]")
            return "\n".join(rows).encode()
        case 1:
            return damage_text(random, text)
        case _:
            lines[place] = f"{name}: {values[random.integers(len(values))]}"
    return "\n".join(lines).encode()


def damage_png(random, data: bytes) -> bytes:
    """Returns a PNG with a wrong head whose checksum is right."""
    head = bytearray(data[16:29])
    if random.random() < 0.7:
        sides = (0, 1, 2**31 - 1, 20_000, 10_000, 2**32 - 1)
        for place in (0, 4):
            side = sides[int(random.integers(len(sides)))]
            head[place : place + 4] = struct.pack(">I", side)
    head[int(random.integers(8, 13))] = int(random.integers(256))
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + bytes(head)))
    return data[:16] + bytes(head) + crc + data[33:]


def damage_gzip(random, data: bytes) -> bytes:
    """Returns a gzipped file with other content, or far too much of it."""
    text = gzip.decompress(data)
    if random.random() < 0.1:
        return gzip.compress(b"a b\n" * 20_000_000, 1)
    text = damage_text(random, text.decode())
    return gzip.compress(damage_bytes(random, text), 1)

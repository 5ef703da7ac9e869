"""Damage to the bytes of a file, drawn from a seed."""

import random
import re
import struct
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
WORDS = (b"nan", b"inf", b"-1", b"1e999", b"9" * 5_000, b"", b"\x00", b"\xff\xfe", b"../../x", b"[" * 2_000, b'"')
LARGEST = 1 << 20  # bytes of a damaged file


def _cut(draw: random.Random, content: bytearray, other: bytes) -> None:
    del content[draw.randrange(len(content) + 1) :]


def _flip_bits(draw: random.Random, content: bytearray, other: bytes) -> None:
    for _ in range(draw.randint(1, 16)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _set_number(draw: random.Random, content: bytearray, other: bytes) -> None:
    number = struct.pack(draw.choice("<>") + "Q", draw.choice(NUMBERS))
    size = draw.choice((1, 2, 4, 8))
    place = draw.randrange(len(content))
    content[place : place + size] = number[:size] if draw.random() < 0.5 else number[-size:]


def _set_number_in_header(draw: random.Random, content: bytearray, other: bytes) -> None:
    head = content[:256]
    _set_number(draw, head, other)
    content[:256] = head


def _delete(draw: random.Random, content: bytearray, other: bytes) -> None:
    start = draw.randrange(len(content))
    del content[start : start + draw.randint(1, 64)]


def _repeat(draw: random.Random, content: bytearray, other: bytes) -> None:
    start = draw.randrange(len(content))
    part = content[start : start + draw.randint(1, 256)]
    content[start:start] = part * draw.choice((1, 2, 50))


def _insert(draw: random.Random, content: bytearray, other: bytes) -> None:
    start = draw.randrange(len(content))
    content[start:start] = draw.randbytes(draw.randint(1, 64))


def _splice(draw: random.Random, content: bytearray, other: bytes) -> None:
    content[draw.randrange(len(content)) :] = other[draw.randrange(len(other) or 1) :]


def _zero(draw: random.Random, content: bytearray, other: bytes) -> None:
    start = draw.randrange(len(content))
    size = min(draw.randint(1, 512), len(content) - start)
    content[start : start + size] = bytes(size)


def _replace_word(draw: random.Random, content: bytearray, other: bytes) -> None:
    words = [match.span() for match in re.finditer(rb"[\w.+-]+", bytes(content[:4096]))]
    if words:
        start, end = draw.choice(words)
        content[start:end] = draw.choice(WORDS)


DAMAGES: Sequence[Callable[[random.Random, bytearray, bytes], None]] = (
    *(_cut, _flip_bits, _set_number, _set_number_in_header, _delete, _repeat, _insert, _splice, _zero, _replace_word),
)


def damaged(draw: random.Random, files: Sequence[bytes]) -> bytes:
    """One of several files of a kind, with one to four damages."""
    content, other = bytearray(draw.choice(files)), draw.choice(files)
    for _ in range(draw.randint(1, 4)):
        if content:
            draw.choice(DAMAGES)(draw, content, other)
    return bytes(content[:LARGEST])

"""PNG files as no library writes them: any depth, filter and interlacing."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = (  # left, top, steps to the right and down
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_png(
    samples: NDArray[np.integer],
    *,
    colour: int,
    depth: int,
    filters: Sequence[int] = (0,),
    interlaced: bool = False,
    extra: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """Encode samples (H, W, C), filters in turns, with ``extra`` chunks before the pixels."""
    height, width, channels = samples.shape
    assert channels == CHANNELS[colour]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    raw = b""
    for left, top, right, down in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = samples[top::down, left::right]
        if part.size:
            raw += filtered(packed(part, depth), max(channels * depth // 8, 1), filters)
    body = zlib.compress(raw)
    step = -(-len(body) // pieces)
    parts = [chunk(b"IDAT", body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), extra, *parts, chunk(b"IEND", b"")]
    )


def packed(samples: NDArray[np.integer], depth: int) -> NDArray[np.uint8]:
    """Lay samples (H, W, C) out as lines of bytes."""
    rows = samples.reshape(len(samples), -1)
    if depth == 16:
        return rows.astype(">u2").view(np.uint8)
    bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)


def filtered(lines: NDArray[np.uint8], size: int, filters: Sequence[int]) -> bytes:
    """Filter lines of bytes by the definition, byte by byte."""
    out = bytearray()
    above = [0] * lines.shape[1]
    for number, line in enumerate(lines.tolist()):
        kind = filters[number % len(filters)]
        out.append(kind)
        for at, value in enumerate(line):
            a = line[at - size] if at >= size else 0
            c = above[at - size] if at >= size else 0
            guess = (0, a, above[at], (a + above[at]) // 2, paeth(a, above[at], c))[kind]
            out.append((value - guess) % 256)
        above = line
    return bytes(out)


def paeth(a: int, b: int, c: int) -> int:
    """Return the neighbour that is nearest to a + b - c, the first of equals."""
    return min((a, b, c), key=lambda value: abs(a + b - c - value))

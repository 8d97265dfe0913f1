"""What a version of TensorRT can read and use, as far as a target file can contradict it."""

import re
from typing import Final

Version = tuple[int, ...]

OLDEST: Final[Version] = (8, 5)
# The newest operator set from that version on, by the list of operators in the branches of
# onnx-tensorrt and, for 11, TensorRT's own opset guide; 10.9 and 10.13 are second-hand.
OPSETS: Final[tuple[tuple[Version, int], ...]] = (
    ((8, 5), 17),
    ((10, 0), 20),
    ((10, 9), 22),
    ((10, 13), 24),
    ((11, 0), 25),
)
LAST_WITH_DLA: Final[Version] = (10, 7)
DLA_AGAIN: Final[Version] = (11, 4, 1)  # on AGX Orin alone


def read_version(text: str) -> Version | None:
    """Return a version as numbers, at least major and minor; None if it is not one."""
    if not re.fullmatch(r"\d+(\.\d+)+", text):
        return None
    return tuple(int(part) for part in text.split("."))


def largest_opset(version: Version) -> int | None:
    """Return the newest ONNX operator set that a version is known to read; None below 8.5.

    Between versions of which this is documented it is that of the older one.
    """
    return max((opset for since, opset in OPSETS if version >= since), default=None)


def has_dla(version: Version) -> bool:
    """Say whether a version can use deep learning accelerators, on devices that have some.

    By NVIDIA's "Working with DLA" of 11.4.1: 10.7 was the last of 10, and only
    11.4.1 has it again.
    """
    return version[:2] <= LAST_WITH_DLA or version >= DLA_AGAIN

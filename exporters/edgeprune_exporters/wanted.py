"""Which formats are to be written, and each at which precision.

A format is named as ``onnx``, at the target's precision, or as ``onnx:int8``.
Its files go to ``onnx/``; where one format is wanted at several precisions, each
gets a folder of its own, as ``onnx-int8/``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from edgeprune.errors import UsageError
from edgeprune.targets import Target
from edgeprune.targets.target import PRECISIONS


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One artifact to write.

    Attributes:
        format: name of the exporter.
        precision: one of ``PRECISIONS``.
        folder: name of the folder that its files go to.
    """

    format: str
    precision: str
    folder: str


def read_formats(texts: Sequence[str], target: Target) -> tuple[Wanted, ...]:
    """Read ``format`` or ``format:precision``.

    Raises:
        UsageError: nothing is named, something is named twice, or a precision is unknown.
    """
    if not texts:
        raise UsageError("no format was named: give some, as 'onnx' or 'openvino:int8'")
    pairs = [_pair(text, target) for text in texts]
    for pair, count in Counter(pairs).items():
        if count > 1:
            raise UsageError(f"'{':'.join(pair)}' is named {count} times: name each format once")
    times = Counter(form for form, _ in pairs)
    return tuple(
        Wanted(
            format=form,
            precision=precision,
            folder=form if times[form] == 1 else f"{form}-{precision}",
        )
        for form, precision in pairs
    )


def _pair(text: str, target: Target) -> tuple[str, str]:
    form, colon, precision = text.partition(":")
    if not colon:
        return form, target.precision
    if precision not in PRECISIONS:
        near = get_close_matches(precision, PRECISIONS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UsageError(
            f"format '{text}' names no precision that can be written{hint}: "
            f"give {' or '.join(PRECISIONS)}"
        )
    return form, precision

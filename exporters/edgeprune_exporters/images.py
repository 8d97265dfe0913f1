"""The images an export works with, each for one purpose.

Parity is proven on images, quantisation is calibrated on training images, what
it may cost is decided on validation images, and what is left is told on the
test split. Invariant: no decision is made on the images of the test split.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from edgeprune_exporters.parity import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """A split, read anew each time, so that it never has to fit into memory.

    Attributes:
        labels: classes (N,), or 0 and 1 per finding (N, K).
        batches: gives the images in order, prepared, float32 (B, C, H, W), at most
            so many at a time.
    """

    labels: NDArray[Any]
    batches: Callable[[int], Iterator[Array]]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """What there is.

    Attributes:
        parity: real images, prepared, float (N, C, H, W); parity is proven on them.
        calibration: training images, likewise, or None: then nothing can be quantised.
        validation: decides what may be quantised, or None.
        test: tells the accuracy of what was written, or None.
    """

    parity: Tensor
    calibration: Tensor | None = None
    validation: LabelledImages | None = None
    test: LabelledImages | None = None

"""Everything edgeprune raises on purpose.

::

    EdgepruneError
    ├── UsageError        options that contradict each other or are out of range
    ├── DataError         images or labels that cannot be used
    ├── ModelError        a model that cannot be built or loaded
    │   ├── WeightsError  weights that do not fit, or a file that could run code
    │   └── CaptureError  a model that torch.export cannot turn into a graph
    ├── PlanError         a budget or an alignment that no plan can meet
    ├── CutError          a cut model that does not equal the masked model
    ├── ExportError       an artifact that cannot be written
    │   └── ParityError   an artifact that does not equal torch
    ├── MeasureError      a runtime that died, hung or answered nonsense
    ├── BundleError       a folder that is not, or not any more, a whole bundle
    └── StorageError      a disk that is full, or a place where nothing can be written

A message says what was seen and what to do. The command line prints it as one
line and exits with ``exit_code``; anything else that escapes is a defect.
"""

from typing import ClassVar


class EdgepruneError(Exception):
    """The root: catch this to catch whatever edgeprune raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgepruneError):
    """Options that contradict each other or are out of range."""

    exit_code: ClassVar[int] = 2


class DataError(EdgepruneError):
    """Images or labels that cannot be used."""


class ModelError(EdgepruneError):
    """A model that cannot be built or loaded."""


class WeightsError(ModelError):
    """Weights that do not fit the model, or a file that could run code."""


class CaptureError(ModelError):
    """A model that torch.export cannot turn into a graph."""


class PlanError(EdgepruneError):
    """A budget or an alignment that no plan can meet."""


class CutError(EdgepruneError):
    """A cut model that does not equal the masked model."""

    exit_code: ClassVar[int] = 5


class ExportError(EdgepruneError):
    """An artifact that cannot be written."""


class ParityError(ExportError):
    """An artifact that does not equal torch."""

    exit_code: ClassVar[int] = 5


class MeasureError(EdgepruneError):
    """A runtime that died, hung or answered nonsense."""


class BundleError(EdgepruneError):
    """A folder that is not, or not any more, a whole bundle."""

    exit_code: ClassVar[int] = 5


class StorageError(EdgepruneError):
    """A disk that is full, or a place where nothing can be written."""

"""Images and labels, from wherever they are kept to batches for a model."""

from edgeprune.data.batches import PreparedSplit, batches
from edgeprune.data.checks import check_split, class_counts
from edgeprune.data.loading import load_data
from edgeprune.data.phantoms import make_phantoms
from edgeprune.data.preprocessing import Preprocessing, preprocess, preprocessing_from_timm
from edgeprune.data.splits import ImageData, Split

__all__ = [
    "ImageData",
    "Split",
    "load_data",
    "make_phantoms",
    "check_split",
    "class_counts",
    "Preprocessing",
    "preprocess",
    "preprocessing_from_timm",
    "PreparedSplit",
    "batches",
]

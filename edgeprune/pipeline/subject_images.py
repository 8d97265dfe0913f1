"""The images that an artifact is measured on: the test split, and a few to be timed with."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.data import ImageData, Preprocessing, load_data, preprocessing_from_timm
from edgeprune.data.checks import label_problem
from edgeprune.errors import DataError, ModelError, UsageError
from edgeprune.pipeline.export_images import labelled
from edgeprune.pipeline.probing import Probe
from edgeprune.pipeline.subjects import Opened
from edgeprune.progress import Reporter
from edgeprune.source import DEFAULT_CONFIG
from edgeprune_exporters import LabelledImages

TIMED_IMAGES: Final = 8
COLOURS: Final = (1, 3)

Inputs = NDArray[np.float32]


def open_images(source: str, *, seed: int, skip_corrupt: bool, reporter: Reporter) -> ImageData:
    """Read a data set whose test split can be measured on.

    Raises:
        DataError: it cannot be read, or has no usable test split.
    """
    reporter.stage(f"Read {source}")
    with reporter.track("checking images", None) as advance:
        data = load_data(
            source,
            seed=seed,
            skip_corrupt=skip_corrupt,
            progress=lambda done, total: advance(done, total=total),
        )
    if not len(data.test):
        raise DataError(
            f"'{data.name}' has no test images, and accuracy is measured on nothing else: add some"
        )
    if problem := label_problem(data.test.labels, data.classes, data.multi_label):
        raise DataError(f"test: {problem}")
    reporter.say(f"{data.name}: {len(data.test)} test images of {len(data.classes)} classes")
    for note in data.notes:
        reporter.say(note)
    return data


def check_classes(data: ImageData, opened: Opened, probe: Probe) -> None:
    """Refuse images of other classes than an artifact tells apart.

    Raises:
        DataError: they are others.
    """
    if opened.classes and opened.classes != data.classes:
        raise DataError(
            f"{opened.name} was made for the classes {', '.join(opened.classes)}, but "
            f"'{data.name}' has {', '.join(data.classes)}: give images of the same classes"
        )
    if probe.classes != len(data.classes):
        raise DataError(
            f"{opened.name} tells {probe.classes} classes apart, but '{data.name}' has "
            f"{len(data.classes)}: give the images it was trained for"
        )


def labelled_test(data: ImageData, how: Preprocessing) -> LabelledImages:
    """Return the test split, prepared."""
    return labelled(data.test, how)


def preparation(opened: Opened, probe: Probe) -> tuple[Preprocessing, str | None]:
    """Return how an artifact's images are prepared, and a note where that is not known.

    Raises:
        ModelError: nothing tells the size of its images, or what is told does not fit.
    """
    if (how := opened.preprocessing) is not None:
        wanted = (how.channels, *how.size)
        if problem := _misfit(wanted, probe.image):
            raise ModelError(f"{opened.name} says that its images are {wanted}, but {problem}")
        return how, None
    channels, height, width = image_shape(opened, probe)
    if channels not in COLOURS:
        raise ModelError(f"{opened.name} takes images of {channels} channels: give it no --data")
    shape = (channels, height, width)
    how = preprocessing_from_timm(dict(DEFAULT_CONFIG) | {"input_size": shape, "crop_pct": 1.0})
    return how, (
        f"{opened.name} does not say how its images are prepared: they were resized to "
        f"{height} × {width} and standardised as ImageNet's are"
    )


def image_shape(opened: Opened, probe: Probe) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of an artifact's images.

    Raises:
        ModelError: nothing tells.
    """
    if opened.preprocessing is not None:
        return (opened.preprocessing.channels, *opened.preprocessing.size)
    if opened.golden is not None:
        channels, height, width = _golden(opened.golden).shape[1:]
    else:
        channels, height, width = probe.image
    if channels is None or height is None or width is None:
        raise ModelError(
            f"{opened.name} takes images of any size and does not say which: write the file with "
            "one size"
        )
    return channels, height, width


def timed_inputs(
    opened: Opened, probe: Probe, *, batch: int, test: LabelledImages | None, seed: int
) -> tuple[Inputs, str]:
    """Return prepared images (N, C, H, W), at least one batch, and what they are."""
    count = max(TIMED_IMAGES, batch)
    if test is not None:
        return _filled(next(test.batches(count)), count), "images of the test split"
    if opened.golden is not None:
        return _filled(_golden(opened.golden), count), "the bundle's golden images"
    shape = (count, *image_shape(opened, probe))
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return noise, "noise; give --data PATH for images"


def check_batch(opened: Opened, probe: Probe, batch: int) -> None:
    """Refuse a batch that an artifact does not take.

    Raises:
        UsageError: it takes another one only.
    """
    if probe.batch not in (None, batch):
        raise UsageError(
            f"{opened.name} takes batches of {probe.batch} only, not of {batch}: give --batch "
            f"{probe.batch}, or export it without a fixed batch"
        )


def _filled(images: Inputs, count: int) -> Inputs:
    """Return at least so many images, repeating them where there are fewer."""
    return images[np.arange(max(count, len(images))) % len(images)]


def _golden(path: Path) -> Inputs:
    try:
        images: Inputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from None
    return images


def _misfit(wanted: tuple[int, ...], found: tuple[int | None, ...]) -> str | None:
    """Say how the input of a file differs from what its images are, or None."""
    if all(b in (None, a) for a, b in zip(wanted, found, strict=True)):
        return None
    return f"it takes {tuple(size or '?' for size in found)}"

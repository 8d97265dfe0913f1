"""A dense model and what ``compress`` made of it, with the images they are for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import edgeprune as ep
from edgeprune.bundle import read_manifest
from edgeprune.capture import Captured
from edgeprune.data import PreparedSplit, batches
from edgeprune.errors import UsageError
from edgeprune.pipeline.opening import Opened, open_subject
from edgeprune.pipeline.unit_settings import Subject
from edgeprune.progress import Reporter
from edgeprune_exporters.images import Images, LabelledImages

CALIBRATION: Final = 300  # training images, as NNCF's own default
PARITY: Final = 12

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One pair of models and its data.

    Attributes:
        name: for the table, as ``resnet50, mednist.npz, 224 px``.
        dense, slim: the models.
        images: what the export calibrates and decides on; without the test split, since
            artifacts are judged on it here, as they will be timed.
        test: what accuracy is told on.
        classes: names of the classes.
        macs: multiply-accumulates of slim, as a share of dense's.
        options: of the ``compress`` that cut slim, as far as they decide what was cut.
    """

    name: str
    dense: Captured
    slim: Captured
    images: Images
    test: LabelledImages
    classes: tuple[str, ...]
    macs: float
    options: str


def open_case(bundle: Path, data: Path, reporter: Reporter) -> Case:
    """Open a bundle, the dense model beside it, and the data that both were made from.

    Raises:
        EdgepruneError: the dense model is gone, or the data are others.
    """
    opened = open_subject(Subject(model=str(bundle), data=str(data)), reporter, per_class=1)
    slim = ep.load(bundle / "model")
    if slim.plan is None:
        raise UsageError(f"'{bundle / 'model'}' was not cut: there is nothing to compare")
    edge = opened.preprocessing.size[0]
    return Case(
        name=f"{opened.name.partition(',')[0]}, {data.stem}, {edge} px",
        dense=opened.dense,
        slim=slim,
        images=_images(opened),
        test=_labelled(_split(opened, "test")),
        classes=opened.classes,
        macs=slim.plan["predicted"]["macs"] / slim.plan["dense"]["macs"],
        options=" ".join(_options(read_manifest(bundle)["settings"])),
    )


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    """Give back the options that a bundle's settings were read from."""
    limits = {"floors": "--floor", "ceilings": "--ceiling"}
    for name, value in settings["budget"].items():
        if name in limits:
            yield from (f"{limits[name]} '{each}={share:g}'" for each, share in value.items())
        elif name == "keep_groups":
            yield from (f"--keep-group '{each}'" for each in value)
        elif isinstance(value, float):
            yield f"--{name} {value:g}"
        else:
            yield f"--{name} {','.join(value)}"
    yield from (f"--{name} {settings[name]}" for name in ("ranking", "align"))


def _images(opened: Opened) -> Images:
    how = opened.preprocessing
    train, validation = (_split(opened, name) for name in ("train", "val"))
    drawn = batches(train, how, batch_size=CALIBRATION, shuffle=True, seed=opened.seed)
    shown = batches(validation, how, batch_size=PARITY, shuffle=True, seed=opened.seed)
    return Images(
        parity=next(shown)[0],
        calibration=next(drawn)[0],
        validation=_labelled(validation),
    )


def _split(opened: Opened, name: str) -> PreparedSplit:
    split = opened.prepared(name)
    if split is None:
        raise UsageError(f"'{opened.name}' was opened without images")
    return split


def _labelled(split: PreparedSplit) -> LabelledImages:
    def read(most: int) -> Iterator[Array]:
        for images, _ in batches(split, split.how, batch_size=most):
            yield images.numpy()

    return LabelledImages(labels=split.split.labels, batches=read)

"""Opening a trained model with images to look at it by, wherever either lies.

Scores and explanations of random weights say nothing, so a model has weights or
is not opened. Invariant: images are prepared as they were when the model was
made, as far as anything that is stored can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import timm
import torch

from edgeprune.bundle import read_manifest
from edgeprune.capture import Captured, capture, load
from edgeprune.data import ImageData, PreparedSplit, Preprocessing, preprocessing_from_timm
from edgeprune.errors import DataError, ModelError, UsageError, WeightsError
from edgeprune.pipeline.inputs import load_images, open_dense, preprocessing_of
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.pipeline.unit_settings import Subject
from edgeprune.progress import Reporter
from edgeprune.source import DEFAULT_CONFIG, ModelSource, build_model, data_config

SAMPLE_BATCH: Final = 2
GENERATED: Final = ("phantoms", "phantoms-multilabel")
COMPLETE: Final = ("weights", "image_size", "output")  # what a stored model holds by itself


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A captured model that is trained, with prepared images.

    Attributes:
        dense: the model.
        name: what to call it, without any folder of this machine.
        preprocessing: how its images are prepared.
        data: the images, or None where none were asked for.
        bundle: the folder of the bundle it belongs to, or None.
        seed: of whatever is random.
    """

    dense: Captured
    name: str
    preprocessing: Preprocessing
    data: ImageData | None
    bundle: Path | None
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as far as there are images."""
        return self.data.classes if self.data else ()

    def prepared(self, split: str) -> PreparedSplit | None:
        """Return a split by its name, or None without images."""
        if self.data is None:
            return None
        (found,) = (each for each in self.data.splits if each.name == split)
        return PreparedSplit(found, self.preprocessing)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A stored model's folder, and the bundle that it belongs to."""

    folder: Path
    bundle: Path | None
    manifest: Mapping[str, Any]


def open_subject(
    subject: Subject, reporter: Reporter, *, per_class: int, needs_images: bool = True
) -> Opened:
    """Open a model and its images.

    per_class: training images that each class must have.

    Raises:
        UsageError: options that do not fit the model, no weights, or no images.
        BundleError: a bundle whose manifest is damaged.
        ModelError: the model cannot be built or read, or is not one for these classes.
        DataError: images that cannot be used.
    """
    if not is_stored(subject.model):
        return _named(subject, reporter, per_class)
    given = [name for name in COMPLETE if getattr(subject, name) is not None]
    if given:
        raise UsageError(
            f"'{subject.model}' is a stored model, which is complete: leave out "
            f"--{given[0].replace('_', '-')}"
        )
    stored = _find(Path(subject.model))
    reporter.stage(f"Read {stored.folder}")
    dense = load(stored.folder)
    seed = int(stored.manifest.get("settings", {}).get("seed", 0))
    seed = seed if subject.seed is None else subject.seed
    source = subject.data or _generated(stored.manifest)
    data = None
    if source is not None:
        asked = CompressSettings(
            data=source, seed=seed, skip_corrupt=subject.skip_corrupt, per_class=per_class
        )
        data = load_images(asked, reporter)
        _check_classes(dense, data, stored)
    elif needs_images:
        made = stored.manifest.get("data", {}).get("name")
        before = f"; the model was made from '{made}'" if made else ""
        raise UsageError(f"there are no images to look at: give --data PATH{before}")
    return Opened(
        dense=dense,
        name=_name(dense, stored),
        preprocessing=_preprocessing(dense, stored.manifest),
        data=data,
        bundle=stored.bundle,
        seed=seed,
    )


def is_stored(model: str) -> bool:
    """Say whether a model is a folder; a timm model may share a folder's name."""
    folder = Path(model)
    marks = ("graph.json", "bundle.json", "dense/graph.json")
    if any((folder / mark).is_file() for mark in marks):
        return True
    return folder.is_dir() and not timm.is_model(model)


def _named(subject: Subject, reporter: Reporter, per_class: int) -> Opened:
    """Build a model by its name, with its weights, for the classes of the data."""
    if subject.weights is None:
        raise UsageError(
            f"'{subject.model}' comes without weights, and what random weights do says nothing: "
            "give --weights FILE, or the folder of a stored model or bundle"
        )
    if not subject.weights.is_file():
        raise WeightsError(f"no weights at '{subject.weights}': give a .safetensors or .pt file")
    if subject.data is None:
        raise UsageError("give --data PATH: the images also say which classes the model has")
    seed = subject.seed or 0
    asked = CompressSettings(
        model=subject.model,
        weights=subject.weights,
        data=subject.data,
        image_size=subject.image_size,
        output=subject.output,
        skip_corrupt=subject.skip_corrupt,
        per_class=per_class,
        seed=seed,
    )
    data = load_images(asked, reporter)
    built = open_dense(asked, data, reporter)
    if built.trained != "all":
        raise ModelError(
            f"'{subject.weights.name}' holds no head for the {len(data.classes)} classes of "
            f"'{data.name}', and what a random head does says nothing: give the weights of a "
            "model that was trained for these classes"
        )
    how = preprocessing_of(built)
    reporter.stage(f"Capture {subject.model}")
    shape = (SAMPLE_BATCH, how.channels, *how.size)
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    source = built.source.to_dict()
    dense = capture(built.model, sample, source=source, output=built.source.output)
    return Opened(
        dense=dense, name=source["name"], preprocessing=how, data=data, bundle=None, seed=seed
    )


def _find(folder: Path) -> _Stored:
    """Find the stored model that a folder stands for, and the bundle it belongs to.

    Raises:
        UsageError: a bundle whose dense model is gone.
    """
    if (folder / "bundle.json").is_file():
        work = Path(f"{folder.resolve()}.work")
        if not (work / "dense" / "graph.json").is_file():
            raise UsageError(
                f"the dense model of '{folder}' was in '{work.name}', which is gone: give the "
                f"dense model by name with --weights, or '{folder / 'model'}' for the slim one"
            )
        return _Stored(folder=work / "dense", bundle=folder, manifest=read_manifest(folder))
    if (folder / "dense" / "graph.json").is_file():
        folder = folder / "dense"
    above = folder.resolve().parent
    beside = above.with_name(above.name.removesuffix(".work"))
    for bundle in (above, beside):
        if (bundle / "bundle.json").is_file():
            return _Stored(folder=folder, bundle=bundle, manifest=read_manifest(bundle))
    return _Stored(folder=folder, bundle=None, manifest={})


def _generated(manifest: Mapping[str, Any]) -> str | None:
    """Return the data that a bundle was made from, where anyone can make them again."""
    asked = manifest.get("settings", {}).get("data")
    name = manifest.get("data", {}).get("name")
    return asked if asked in GENERATED and asked == name else None


def _name(dense: Captured, stored: _Stored) -> str:
    named = (dense.source or {}).get("name") or stored.folder.resolve().name
    return f"{named}, {'slim' if dense.plan is not None else 'dense'}" if stored.bundle else named


def _preprocessing(dense: Captured, manifest: Mapping[str, Any]) -> Preprocessing:
    """Return how images are prepared: as the bundle has it, else as timm configures the model."""
    if "preprocessing" in manifest:
        return Preprocessing.from_dict(manifest["preprocessing"])
    config = dict(DEFAULT_CONFIG)
    fresh = False
    if dense.source is not None:
        source = ModelSource.from_dict(dense.source)
        fresh = source.weights is None and not source.pretrained
        if source.kind == "timm":
            # Only its configuration is wanted, so nothing is fetched.
            config = data_config(build_model(replace(source, pretrained=False)), source)
    how = preprocessing_from_timm(config | {"input_size": tuple(dense.sample.shape[1:])})
    return replace(how, crop_pct=1.0) if fresh else how


def _check_classes(dense: Captured, data: ImageData, stored: _Stored) -> None:
    own = stored.manifest.get("data", {}).get("classes")
    if own is not None and list(data.classes) != own:
        raise DataError(
            f"the model was made for the classes {', '.join(own)}, but '{data.name}' has "
            f"{', '.join(data.classes)}: give images of the same classes"
        )
    with torch.no_grad():
        logits = dense.module(torch.zeros_like(dense.sample))
    if logits.shape[1] != len(data.classes):
        raise ModelError(
            f"the model tells {logits.shape[1]} classes apart, but '{data.name}' has "
            f"{len(data.classes)}: give the images it was trained for"
        )

"""What a run works on: the images, and a model that fits them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from edgeprune.data import ImageData, check_split, load_data, preprocessing_from_timm
from edgeprune.data.preprocessing import Preprocessing
from edgeprune.errors import DataError, ModelError
from edgeprune.pipeline.checks import looks_at_images
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.progress import Reporter
from edgeprune.source import (
    BuiltModel,
    ModelSource,
    data_config,
    model_source,
    open_model,
    output_problem,
)

LEAST_EDGE: Final = 64  # pixels; below it most networks' last feature map is one position
STRIDE: Final = 32  # what the usual network divides the input's edge by
PROBED: Final = 64  # images whose size is looked at


def load_images(settings: CompressSettings, reporter: Reporter) -> ImageData:
    """Read the data and say what was found.

    Raises:
        DataError: images or labels that cannot carry the run.
    """
    reporter.stage(f"Read {settings.data}")
    with reporter.track("checking images", None) as advance:
        data = load_data(
            settings.data,
            seed=settings.seed,
            skip_corrupt=settings.skip_corrupt,
            progress=lambda done, total: advance(done, total=total),
        )
    if len(data.classes) < 2 and not data.multi_label:
        raise DataError(f"'{data.name}' has one class only: there is nothing to tell apart")
    check_split(data, settings.per_class if looks_at_images(settings.criterion) else 0)
    sizes = ", ".join(f"{len(split)} {split.name}" for split in data.splits)
    kind = "findings, any number per image" if data.multi_label else "classes"
    reporter.say(f"{data.name}: {sizes}; {len(data.classes)} {kind}")
    for note in data.notes:
        reporter.say(note)
    return data


def fingerprint(data: ImageData) -> str:
    """Hash which images there are and how they are labelled; pixels are taken on trust."""
    digest = hashlib.sha256(json.dumps([data.classes, data.multi_label]).encode())
    for split in data.splits:
        digest.update(json.dumps(split.ids).encode())
        digest.update(split.labels.tobytes())
    return digest.hexdigest()


def open_dense(settings: CompressSettings, data: ImageData, reporter: Reporter) -> BuiltModel:
    """Build the model for the classes of the data, with its weights, and say what was decided.

    Raises:
        ModelError: it cannot be built, or does not give one logit per class.
        WeightsError: its weights do not fit.
    """
    reporter.stage(f"Build {settings.model}")
    source = model_source(
        settings.model,
        num_classes=len(data.classes),
        image_size=settings.image_size,
        pretrained=settings.pretrained,
        output=settings.output,
    )
    built = _fitting(source, settings)
    edge = _own_edge(settings, built, data)
    if edge is not None:
        note = (
            f"trained from scratch on images of at most {_largest(data)} pixels, so the input is "
            f"{edge} × {edge} instead of the model's {built.config['input_size'][-1]}; "
            "choose another with --image-size"
        )
        built = _noted(open_model(replace(source, image_size=edge), seed=settings.seed), note)
    for note in built.notes:
        reporter.say(note)
    return built


def preprocessing_of(built: BuiltModel) -> Preprocessing:
    """Return the preprocessing of a model: its own, or whole images if nothing ties it."""
    how = preprocessing_from_timm(built.config)
    # A fresh model has no habit of central crops, and findings lie at borders too.
    return replace(how, crop_pct=1.0) if built.trained == "nothing" else how


def _fitting(source: ModelSource, settings: CompressSettings) -> BuiltModel:
    """Open the model; one of the user's own may also take grey images."""
    built = open_model(source, weights=settings.weights, seed=settings.seed)
    problem = output_problem(built.model, built.config, source.num_classes, source.output)
    if problem is None:
        return built
    grey = replace(source, in_chans=1)
    if source.kind == "factory" and _runs(built, data_config(built.model, grey)):
        note = f"'{source.to_dict()['name']}' takes one channel: images are converted to grey"
        return _noted(open_model(grey, weights=settings.weights, seed=settings.seed), note)
    hint = "" if settings.image_size else "; if its input has another size, give --image-size"
    raise ModelError(f"{problem}{hint}")


def _runs(built: BuiltModel, config: Mapping[str, Any]) -> bool:
    source = built.source
    return output_problem(built.model, config, source.num_classes, source.output) is None


def _noted(built: BuiltModel, note: str) -> BuiltModel:
    return replace(built, notes=(*built.notes, note))


def _own_edge(settings: CompressSettings, built: BuiltModel, data: ImageData) -> int | None:
    """Return a smaller input for a model that nothing ties to its own, or None.

    Small images enlarged to the size that ImageNet networks are used at take
    many times the multiply-accumulates and show nothing more.
    """
    if settings.image_size or built.trained != "nothing" or _fixed(built):
        return None
    edge = max(LEAST_EDGE, -(-_largest(data) // STRIDE) * STRIDE)
    return edge if edge < built.config["input_size"][-1] else None


def _fixed(built: BuiltModel) -> bool:
    config: Mapping[str, Any] = getattr(built.model, "pretrained_cfg", None) or {}
    return built.source.kind != "timm" or bool(config.get("fixed_input_size"))


def _largest(data: ImageData) -> int:
    images = data.train.images
    return max(int(edge) for i in range(min(len(images), PROBED)) for edge in images[i].shape[:2])

"""``inspect``: build or read a model, capture it, and say what could be cut."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import timm
import torch

from edgeprune.axes import ChannelGroup, analyse
from edgeprune.capture import Captured, capture, load, trainable
from edgeprune.errors import CaptureError, UsageError
from edgeprune.inspection import Inspection, describe
from edgeprune.limits import check_kinds, select
from edgeprune.pipeline.export_settings import target_at
from edgeprune.progress import Reporter, Silent
from edgeprune.source import BuiltModel, model_source, open_model
from edgeprune.targets import Target
from edgeprune.targets.roofline import Estimate, estimate, no_estimate

CLASSES: Final = 1000
CHANNELS: Final = 3
SAMPLE_BATCH: Final = 2


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """Which model to look at, and which of its groups to list.

    Attributes:
        model: a timm name, ``module:factory`` or ``file.py:factory``, or the folder of
            a stored model or bundle, which holds everything else by itself.
        weights: safetensors or a state dict; None leaves them as they are initialised.
        num_classes: size of the head; None for 1000.
        in_chans: channels of the input; None for 3.
        image_size: edge of the input; None takes the model's.
        output: which of the model's outputs holds the logits; None if it is clear.
        kinds: list groups of these kinds only; empty for all.
        groups: list groups whose names match this pattern only; None for all.
        target: estimate the latency on this device; None for no estimate.
        precision: of that estimate; None takes the target's.
    """

    model: str
    weights: Path | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    image_size: int | None = None
    output: str | None = None
    kinds: tuple[str, ...] = ()
    groups: str | None = None
    target: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that no model has."""
        for name, least in (("num_classes", 1), ("in_chans", 1), ("image_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value} is too small: give {least} or more")


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What was found, about which model, and how long it took.

    Attributes:
        model: its name, without any folder of this machine.
        weights: where its weights are from.
        input: shape of one image, (C, H, W).
        found: about all of the model.
        listed: names of the groups that were asked for.
        estimate: of its latency on a device, or None.
        seconds: of capture (None for a stored model) and of analysis.
    """

    model: str
    weights: str
    input: tuple[int, ...]
    found: Inspection
    listed: frozenset[str]
    estimate: Estimate | None
    seconds: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; only ``seconds`` differ from run to run."""
        head = {"model": self.model, "weights": self.weights, "input": list(self.input)}
        document = head | self.found.to_dict()
        document["groups"] = [g for g in document["groups"] if g["name"] in self.listed]
        found = {"estimate": self.estimate.to_dict()} if self.estimate else {}
        return document | found | {"seconds": dict(self.seconds)}


class _Opened(NamedTuple):
    """A captured model, its name, where its weights are from, and the seconds of the capture."""

    dense: Captured
    name: str
    weights: str
    seconds: float | None


def inspect_model(settings: InspectSettings, reporter: Reporter | None = None) -> Inspected:
    """Capture a model and say what could be cut.

    Raises:
        UsageError: options that do not fit the model.
        ModelError: it cannot be built, read or captured.
    """
    reporter = reporter or Silent()
    target = _target(settings)
    opened = _stored(settings) if _is_stored(settings) else _captured(settings, reporter)
    reporter.stage("Analyse")
    begun = time.perf_counter()
    analysis = analyse(opened.dense)
    seconds = {"capture": opened.seconds, "analysis": time.perf_counter() - begun}
    return Inspected(
        model=opened.name,
        weights=opened.weights,
        input=tuple(opened.dense.sample.shape[1:]),
        found=describe(analysis, trainable(opened.dense.module), opened.dense.notes),
        listed=_listed(settings, analysis.groups),
        estimate=None
        if target is None
        else estimate(opened.dense, target, precision=target.precision, analysis=analysis),
        seconds=seconds,
    )


def _target(settings: InspectSettings) -> Target | None:
    """Return the target to estimate for, or None; what cannot be estimated is told at once.

    Raises:
        UsageError: no such target, or it does not say how fast its hardware is.
    """
    if settings.target is None:
        if settings.precision is not None:
            raise UsageError("--precision is that of an estimate: give --target NAME too")
        return None
    target = target_at(settings.target, settings.precision)
    if reason := no_estimate(target, target.precision):
        raise UsageError(reason)
    return target


def _is_stored(settings: InspectSettings) -> bool:
    """Say whether the model is a folder; a timm model may share a folder's name."""
    folder = Path(settings.model)
    if (folder / "graph.json").is_file() or (folder / "model" / "graph.json").is_file():
        return True
    return folder.is_dir() and not timm.is_model(settings.model)


def _stored(settings: InspectSettings) -> _Opened:
    options = ("weights", "num_classes", "in_chans", "image_size", "output")
    given = [name for name in options if getattr(settings, name) is not None]
    if given:
        option = given[0].replace("_", "-")
        raise UsageError(
            f"'{settings.model}' is a stored model, which is complete: leave out --{option}"
        )
    dense = load(settings.model)
    return _Opened(dense, Path(settings.model).resolve().name, "of the stored model", None)


def _captured(settings: InspectSettings, reporter: Reporter) -> _Opened:
    reporter.stage(f"Build {settings.model}")
    source = model_source(
        settings.model,
        num_classes=settings.num_classes or CLASSES,
        in_chans=settings.in_chans or CHANNELS,
        image_size=settings.image_size,
        output=settings.output,
    )
    built = open_model(source, weights=settings.weights)
    reporter.stage(f"Capture {settings.model}")
    begun = time.perf_counter()
    dense = _capture(built, settings)
    seconds = time.perf_counter() - begun
    written = built.source.to_dict()
    weights = built.source.weights or "as initialised, which is enough for this"
    dense = replace(dense, notes=(*built.notes, *dense.notes))
    return _Opened(dense, written["name"], weights, seconds)


def _capture(built: BuiltModel, settings: InspectSettings) -> Captured:
    shape = (SAMPLE_BATCH, *built.config["input_size"])
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        return capture(
            built.model, sample, source=built.source.to_dict(), output=built.source.output
        )
    except CaptureError as error:
        if str(shape) not in str(error):
            raise
        raise CaptureError(f"{error}: see --image-size and --in-chans") from error


def _listed(settings: InspectSettings, groups: Sequence[ChannelGroup]) -> frozenset[str]:
    """Return the names of the groups to list."""
    check_kinds(groups, settings.kinds)
    names = [g.name for g in groups if not settings.kinds or g.kind in settings.kinds]
    if settings.groups is None:
        return frozenset(names)
    return frozenset(select(settings.groups, names, "channel group", "--groups"))

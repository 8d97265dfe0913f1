"""Where a model comes from: a timm name, or a factory of the user's own.

A source is stored with whatever is made of the model. Invariant: what is stored
names no folder of the machine it was made on.
"""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from edgeprune.errors import CaptureError, ModelError, UsageError, WeightsError
from edgeprune.factory import call_factory
from edgeprune.outputs import Output, logits_of
from edgeprune.refusals import first_line
from edgeprune.weights import damp_head, load_weights, timm_head

# For a factory nothing is known: the statistics of ImageNet, and no border cut off.
DEFAULT_CONFIG: Final[Mapping[str, Any]] = {
    "input_size": (3, 224, 224),
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 1.0,
    "crop_mode": "center",
}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """How to build a model again.

    Attributes:
        kind: ``timm``, or ``factory`` for ``module:function`` and ``file.py:function``.
        name: the timm name or the factory; in memory a file may have its folder.
        num_classes: size of the head.
        in_chans: channels of the input.
        image_size: edge of the input in pixels, or None for the model's own.
        arguments: further arguments of the factory, JSON values.
        pretrained: whether timm fetches its own weights.
        output: which of several outputs holds the logits, as ``capture`` takes it.
        weights: name of the file the weights came from, or None.
        sha256: of that file.
    """

    kind: Literal["timm", "factory"]
    name: str
    num_classes: int
    in_chans: int = 3
    image_size: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    output: Output = None
    weights: str | None = None
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the source as JSON values, a factory's file without its folder."""
        place, colon, factory = self.name.rpartition(":")
        return {
            "kind": self.kind,
            "name": f"{Path(place).name}:{factory}" if colon else self.name,
            "num_classes": self.num_classes,
            "in_chans": self.in_chans,
            "image_size": self.image_size,
            "arguments": dict(self.arguments),
            "pretrained": self.pretrained,
            "output": self.output,
            "weights": self.weights,
            "sha256": self.sha256,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote. Raises ModelError."""
        try:
            return cls(**document)
        except TypeError as error:
            raise ModelError(f"the stored model source is damaged: {error}") from None


@dataclass(frozen=True, kw_only=True, eq=False)
class BuiltModel:
    """A model, ready to be captured or trained.

    Attributes:
        model: in evaluation mode.
        source: where it came from, with its weights.
        config: how images become its input, in timm's terms: input_size (C, H, W),
            mean, std, interpolation, crop_pct, crop_mode.
        trained: none of it, all but the head, or all.
        notes: what a user should know, one sentence each.
    """

    model: nn.Module
    source: ModelSource
    config: Mapping[str, Any]
    trained: Literal["nothing", "backbone", "all"]
    notes: tuple[str, ...] = ()


def model_source(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    image_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    output: Output = None,
) -> ModelSource:
    """Read a model's name: one of timm's, ``module:factory`` or ``file.py:factory``.

    Raises:
        ModelError: timm has no such model, or no such pretrained weights.
        UsageError: pretrained weights are asked of a factory.
    """
    kind: Literal["timm", "factory"] = "factory" if ":" in name else "timm"
    if kind == "timm" and (problem := _name_problem(name)):
        raise ModelError(problem)
    if kind == "factory" and pretrained:
        raise UsageError(f"'{name}' is a factory, for which timm has no weights: give --weights")
    return ModelSource(
        kind=kind,
        name=name,
        num_classes=num_classes,
        in_chans=in_chans,
        image_size=image_size,
        arguments=dict(arguments or {}),
        pretrained=pretrained,
        output=output,
    )


def open_model(source: ModelSource, *, weights: Path | None = None, seed: int = 0) -> BuiltModel:
    """Build the model, and load its weights if a file is given.

    seed: of the initialisation of whatever is not loaded.

    Raises:
        ModelError: the model cannot be built.
        WeightsError: the weights cannot be fetched, read or used.
    """
    model = build_model(source, seed=seed)
    config = data_config(model, source)
    if weights is not None:
        report = load_weights(model, weights)
        named = replace(source, weights=report.file, sha256=report.sha256)
        return BuiltModel(
            model=model,
            source=named,
            config=config,
            trained="backbone" if report.fresh else "all",
            notes=report.notes,
        )
    if not source.pretrained:
        return BuiltModel(model=model, source=source, config=config, trained="nothing")
    theirs = (getattr(model, "pretrained_cfg", None) or {}).get("num_classes")
    if theirs == source.num_classes:
        return BuiltModel(model=model, source=source, config=config, trained="all")
    damp_head(model, timm_head(model))
    note = (
        f"timm's weights for '{source.name}' have a head of {theirs} classes: it was replaced by "
        f"a fresh one of {source.num_classes} classes, which has to be trained"
    )
    return BuiltModel(model=model, source=source, config=config, trained="backbone", notes=(note,))


def build_model(source: ModelSource, *, seed: int = 0) -> nn.Module:
    """Build the model in evaluation mode, its initialisation drawn from the seed.

    Raises:
        ModelError: it cannot be built.
        WeightsError: timm's own weights cannot be fetched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source.kind == "timm":
            return _from_timm(source).eval()
        sizes = {"num_classes": source.num_classes, "in_chans": source.in_chans}
        return call_factory(source.name, sizes, source.arguments).eval()


def data_config(model: nn.Module, source: ModelSource) -> dict[str, Any]:
    """Return how images become input, as timm resolves it; its defaults for a factory.

    Statistics stay those of three channels; ``preprocessing_from_timm`` averages them.
    """
    config = dict(DEFAULT_CONFIG)
    if source.kind == "timm" or getattr(model, "pretrained_cfg", None):
        config = dict(resolve_model_data_config(model))
    _, height, width = config["input_size"]
    if source.image_size is not None:
        height = width = source.image_size
    return config | {"input_size": (source.in_chans, height, width)}


def output_problem(
    model: nn.Module, config: Mapping[str, Any], num_classes: int, output: Output = None
) -> str | None:
    """Run one grey image through, and say why its logits will not do, or None."""
    sample = torch.zeros(1, *config["input_size"])
    try:
        with torch.inference_mode():
            logits = logits_of(model.eval()(sample), output)
    except CaptureError as error:
        return str(error)
    except Exception as error:  # the user's own code runs here
        return f"the model fails on an input of shape {tuple(sample.shape)}: {first_line(error)}"
    if logits.shape == (1, num_classes):
        return None
    return (
        f"the model returns {tuple(logits.shape)} for one image, but the data have "
        f"{num_classes} classes: build it with as many outputs"
    )


def _name_problem(name: str) -> str | None:
    """Say why timm cannot build this name, with the nearest it can, or None."""
    architecture, _, tag = name.partition(".")
    if name.endswith(".py"):
        return f"'{name}' is a file: name the function that builds the model, as '{name}:build'"
    known = timm.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()."
        return f"timm has no model '{name}': {hint} Your own model is given as 'file.py:function'"
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.0)
        return f"timm's '{architecture}' has no weights '{tag}': it has {', '.join(near) or 'none'}"
    return None


def _from_timm(source: ModelSource) -> nn.Module:
    options: dict[str, Any] = {"num_classes": source.num_classes, "in_chans": source.in_chans}
    # Only models of a fixed size take one; for the others any size will do.
    default = timm.get_pretrained_cfg(source.name, allow_unregistered=True)
    if source.image_size is not None and default is not None and default.fixed_input_size:
        options["img_size"] = source.image_size
    if source.pretrained and (default is None or not default.has_weights):
        raise WeightsError(f"timm has no weights for '{source.name}': give --weights FILE")
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it reports every retry of a download
    try:
        model: nn.Module = timm.create_model(
            source.name, pretrained=source.pretrained, **options, **source.arguments
        )
    except Exception as error:  # timm raises what its models and the network raise
        if source.pretrained and not isinstance(error, TypeError):
            raise WeightsError(
                f"the weights of '{source.name}' could not be fetched ({first_line(error)}): "
                "give them with --weights FILE, or leave out --pretrained"
            ) from error
        raise ModelError(f"timm cannot build '{source.name}': {first_line(error)}") from error
    finally:
        logger.setLevel(level)
    return model

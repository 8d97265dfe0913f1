"""The stage that lowers both models: which artifacts there are, and which of them is measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune.files import write_json
from edgeprune.pipeline.artifact_metadata import artifact_metadata
from edgeprune.pipeline.context import Context
from edgeprune.pipeline.export_images import export_images
from edgeprune_exporters import (
    ExportOptions,
    Images,
    TorchModel,
    Wanted,
    export,
    find_exporter,
    read_formats,
)

BACKENDS: Final = {"openvino": "openvino", "onnxruntime": "onnx"}  # runtime → format it loads
WORDS: Final = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
NOISE: Final = "of what images change in the logits"
DENSE_PRECISION: Final = "fp32"  # of the baseline, whatever the slim model is written in


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The artifacts of both models, and where they lie.

    Attributes:
        folder: holds ``dense`` and ``slim``, each with a folder per format.
        artifacts: one entry per artifact, as the bundle lists them.
    """

    folder: Path
    artifacts: tuple[Mapping[str, Any], ...]

    def measured(self, model: str, wanted: Wanted) -> Mapping[str, Any]:
        """Return the artifact of a model that is measured."""
        return next(
            each
            for each in self.artifacts
            if (each["model"], each["format"], each["precision"])
            == (model, wanted.format, wanted.precision)
        )

    def file(self, artifact: Mapping[str, Any]) -> Path:
        """Return the file that a runtime is pointed at."""
        return self.folder / str(artifact["model"]) / str(artifact["files"][0])


def key_of(artifact: Mapping[str, Any]) -> str:
    """Name an artifact among those of a run, as ``slim/openvino``."""
    return f"{artifact['model']}/{str(artifact['files'][0]).partition('/')[0]}"


def refuse_formats(context: Context, model: Captured) -> None:
    """Say before any training that a format cannot be written for this model.

    Raises:
        ExportError: an exporter refuses it.
    """
    for wanted in read_formats(_formats(context), context.target):
        exporter = find_exporter(wanted.format)
        if reason := exporter.refusal(TorchModel(model), context.target, wanted.precision):
            raise ExportError(f"no {wanted.format} for target '{context.target.name}': {reason}")


def export_stage(context: Context, dense: Captured, slim: Captured) -> Exported:
    """Export both models; the dense one only as what is measured, in float32."""

    def make(folder: Path) -> None:
        images = _images(context, slim)
        listed = []
        for name, model, formats in (
            ("slim", slim, _formats(context)),
            ("dense", dense, (_text(measured_as(context, "dense")),)),
        ):
            options = ExportOptions(max_drop=context.settings.max_drop if name == "slim" else None)
            artifacts = export(
                model,
                context.target,
                folder / name,
                images,
                formats=formats,
                metadata=_metadata(context, model),
                options=options,
                reporter=context.reporter,
            )
            listed += [{"model": name} | artifact.to_dict() for artifact in artifacts]
        write_json(folder / "artifacts.json", listed)

    def read(folder: Path) -> Exported:
        listed = json.loads((folder / "artifacts.json").read_text(encoding="utf-8"))
        return Exported(folder=folder, artifacts=tuple(listed))

    exported = context.stage("artifacts", "Export", make, read)
    for artifact in exported.artifacts:
        context.reporter.say(f"{key_of(artifact)}: {proof_line(artifact)}")
    return exported


def _images(context: Context, model: Captured) -> Images:
    settings = context.settings
    return export_images(
        context.data,
        context.preprocessing,
        seed=settings.seed,
        sampler=settings.sampler,
        model=model,
    )


def _formats(context: Context) -> tuple[str, ...]:
    """Return what is written of the slim model: what is asked for, and what is measured."""
    asked = {(w.format, w.precision) for w in read_formats(context.formats, context.target)}
    wanted = measured_as(context, "slim")
    more = () if (wanted.format, wanted.precision) in asked else (_text(wanted),)
    return (*context.formats, *more)


def _text(wanted: Wanted) -> str:
    return f"{wanted.format}:{wanted.precision}"


def measured_as(context: Context, model: str) -> Wanted:
    """Return what is measured here of a model.

    It is the format of the target's own runtime, slim at the target's precision;
    else ONNX in float32 on this processor, where half precision is only emulated.
    """
    here = context.target.runtime in BACKENDS
    form = BACKENDS.get(context.target.runtime, "onnx")
    precision = context.target.precision if here and model == "slim" else DENSE_PRECISION
    asked = read_formats(context.formats, context.target)
    own = [wanted for wanted in asked if wanted.format == form]
    if model == "slim" and here and own and all(w.precision != precision for w in own):
        precision = own[0].precision
    return Wanted(format=form, precision=precision, folder=form)


def measured_runtime(context: Context) -> str:
    """Return the runtime that is measured here."""
    return context.target.runtime if context.target.runtime in BACKENDS else "onnxruntime"


def proof_line(artifact: Mapping[str, Any]) -> str:
    """Say in one line what was proven of an artifact, given as JSON values."""
    proof = artifact["proof"]
    noisy = proof["measure"] == "noise"
    parts = [f"{b[proof['measure']] or 0:.1e} at batch {b['batch']}" for b in proof["batches"]]
    words = (
        f"{artifact['precision']}, equals torch within {proof['tolerance']:.1g} "
        f"{NOISE if noisy else 'relative'} ({', '.join(parts)})"
    )
    if count := len(artifact["kept"]):
        words += f"; {count} operator{'s' * (count > 1)} kept at a higher precision"
    return words


def _metadata(context: Context, model: Captured) -> dict[str, str]:
    return artifact_metadata(
        classes=context.data.classes,
        multi_label=context.data.multi_label,
        preprocessing=context.preprocessing,
        name=str((model.source or {}).get("name", "")),
        model=model,
    )

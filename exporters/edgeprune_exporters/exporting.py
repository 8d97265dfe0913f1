"""One call from a captured model to proven files for a target."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from torch import Tensor

from edgeprune.capture import Captured
from edgeprune.errors import ExportError, UsageError
from edgeprune.files import replacing_folder
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.job import Exporter, Job
from edgeprune_exporters.onnx import OnnxExporter
from edgeprune_exporters.openvino import OpenvinoExporter

ENTRY_POINTS: Final = "edgeprune.exporters"
EXPORTERS: Final[Mapping[str, Exporter]] = {"onnx": OnnxExporter(), "openvino": OpenvinoExporter()}


def export(
    model: Captured,
    target: Target,
    folder: str | Path,
    inputs: Tensor,
    *,
    formats: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Artifact, ...]:
    """Write the model in every format, each into its own folder, and prove each.

    A format's folder takes its place only when its proof holds.

    Args:
        model: what to export.
        target: the device; it says which formats, opset and precision.
        folder: where to write ``onnx/model.onnx`` and the like.
        inputs: real images, preprocessed, (N, C, H, W); parity is proven on them.
        formats: which formats, instead of those the target lists.
        metadata: texts to store in the files, such as labels and preprocessing.

    Raises:
        UsageError: an unknown format.
        ExportError: a format cannot be written for this model or target.
        ParityError: a file does not compute what torch computes.
    """
    chosen = _choose(target.formats if formats is None else formats)
    _check_inputs(model, inputs)
    for name, exporter in chosen.items():
        reason = exporter.refusal(model, target)
        if reason is not None:
            raise ExportError(f"no {name} for target '{target.name}': {reason}")
    job = Job(model=model, target=target, inputs=inputs, metadata=dict(metadata or {}))
    return tuple(_write(name, exporter, job, Path(folder)) for name, exporter in chosen.items())


def exporters() -> Mapping[str, Exporter]:
    """Return the exporters by format: the built-in ones, and those of other packages."""
    outside = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    loaded: dict[str, Exporter] = {n: e.load() for n, e in outside.items() if n not in EXPORTERS}
    return {**EXPORTERS, **loaded}


def _choose(formats: Sequence[str]) -> dict[str, Exporter]:
    known = exporters()
    for name in formats:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise UsageError(f"no format '{name}'{hint}: give some of {', '.join(known)}")
    if not formats:
        raise UsageError(f"no format was named: give some of {', '.join(known)}")
    return {name: known[name] for name in formats}


def _check_inputs(model: Captured, inputs: Tensor) -> None:
    wanted = tuple(model.sample.shape[1:])
    if inputs.dim() != 4 or len(inputs) == 0 or tuple(inputs.shape[1:]) != wanted:
        raise ExportError(
            f"the images to prove parity on are of shape {tuple(inputs.shape)}; the model takes "
            f"(N, {', '.join(map(str, wanted))})"
        )


def _write(name: str, exporter: Exporter, job: Job, folder: Path) -> Artifact:
    try:
        with replacing_folder(folder / name) as temporary:
            artifact = exporter.export(job, temporary)
            if not artifact.proof.ok:
                artifact.proof.require(name, job.rounding)
    except OSError as error:
        raise ExportError(
            f"'{folder / name}' cannot be written: {error.strerror or error}"
        ) from error
    return replace(artifact, files=tuple(f"{name}/{file}" for file in artifact.files))

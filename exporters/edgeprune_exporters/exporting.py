"""One call from a model to proven files for a target."""

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
from edgeprune.progress import Reporter, Silent
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.images import Images
from edgeprune_exporters.job import Exporter, Job
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.onnx import OnnxExporter
from edgeprune_exporters.openvino import OpenvinoExporter
from edgeprune_exporters.options import ExportOptions
from edgeprune_exporters.proof_document import write_proof
from edgeprune_exporters.tensorrt import TensorrtExporter
from edgeprune_exporters.torch_model import TorchModel
from edgeprune_exporters.wanted import Wanted, read_formats

ENTRY_POINTS: Final = "edgeprune.exporters"
EXPORTERS: Final[Mapping[str, Exporter]] = {
    "onnx": OnnxExporter(),
    "openvino": OpenvinoExporter(),
    "tensorrt": TensorrtExporter(),
}


def export(
    model: Captured | Exportable,
    target: Target,
    folder: str | Path,
    inputs: Tensor | Images,
    *,
    formats: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    options: ExportOptions | None = None,
    reporter: Reporter | None = None,
) -> tuple[Artifact, ...]:
    """Write the model in every format, each into its own folder, and prove each.

    A format's folder takes its place only when its proof holds.

    Args:
        model: what to export.
        target: the device; it says which formats, opset and precision.
        folder: where to write ``onnx/model.onnx`` and the like.
        inputs: real images, prepared, (N, C, H, W), that parity is proven on; or
            the images for each purpose.
        formats: which formats, as ``onnx`` or ``openvino:int8``, instead of those
            the target lists.
        metadata: texts to store in the files, such as labels and preprocessing.
        options: what else is asked for.
        reporter: hears how long work goes on.

    Raises:
        UsageError: an unknown format or precision, or an option that no format takes.
        ExportError: a format cannot be written for this model or target.
        ParityError: a file does not compute what the model computes.
    """
    images = inputs if isinstance(inputs, Images) else Images(parity=inputs)
    job = Job(
        model=TorchModel(model) if isinstance(model, Captured) else model,
        target=target,
        images=images,
        options=options or ExportOptions(),
        metadata=dict(metadata or {}),
        reporter=reporter or Silent(),
    )
    asked = read_formats(target.formats if formats is None else formats, target)
    chosen = [(wanted, find_exporter(wanted.format)) for wanted in asked]
    _check_images(job)
    check_options(job.options, asked)
    for wanted, exporter in chosen:
        if reason := refusal(exporter, job, wanted):
            raise ExportError(f"no {wanted.format} for target '{target.name}': {reason}")
    return tuple(_write(wanted, exporter, job, Path(folder)) for wanted, exporter in chosen)


def exporters() -> Mapping[str, Exporter]:
    """Return the exporters by format: the built-in ones, and those of other packages."""
    outside = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    loaded: dict[str, Exporter] = {n: e.load() for n, e in outside.items() if n not in EXPORTERS}
    return {**EXPORTERS, **loaded}


def find_exporter(name: str) -> Exporter:
    """Return the exporter of a format.

    Raises:
        UsageError: there is none; the nearest name is given.
    """
    known = exporters()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UsageError(f"no format '{name}'{hint}: give some of {', '.join(known)}")
    return known[name]


def check_options(options: ExportOptions, asked: Sequence[Wanted]) -> None:
    """Refuse an option that no format which is written takes.

    Raises:
        UsageError: there is such an option; the formats that would take it are named.
    """
    known = exporters()
    for name in sorted(options.given):
        if not any(name in known[wanted.format].takes for wanted in asked):
            takers = [form for form, exporter in known.items() if name in exporter.takes]
            raise UsageError(
                f"--{name.replace('_', '-')} means nothing to "
                f"{' or '.join(dict.fromkeys(wanted.format for wanted in asked))}: leave it out, "
                f"or write {' or '.join(takers) or 'another format'}"
            )
    if options.max_drop is not None and all(wanted.precision != "int8" for wanted in asked):
        raise UsageError("--max-drop bounds what int8 may cost, and no int8 is written")


def refusal(exporter: Exporter, job: Job, wanted: Wanted) -> str | None:
    """Say why an artifact cannot be written, or None."""
    target = job.target
    if wanted.precision not in target.precisions:
        return (
            f"it cannot run {wanted.precision}: give --precision {' or '.join(target.precisions)}"
        )
    if wanted.precision == "int8" and job.images.calibration is None:
        return "int8 needs images to calibrate on: give --data PATH"
    return exporter.refusal(job.model, target, wanted.precision)


def _check_images(job: Job) -> None:
    for images in (job.images.parity, job.images.calibration):
        if images is None:
            continue
        if images.dim() != 4 or len(images) == 0 or tuple(images.shape[1:]) != job.model.shape:
            raise ExportError(
                f"the images to export with are of shape {tuple(images.shape)}; the model "
                f"takes (N, {', '.join(map(str, job.model.shape))})"
            )


def _write(wanted: Wanted, exporter: Exporter, job: Job, folder: Path) -> Artifact:
    place = folder / wanted.folder
    try:
        with replacing_folder(place) as temporary:
            artifact = exporter.export(job, wanted.precision, temporary)
            if not artifact.proof.ok:
                artifact.proof.require(wanted.format, job.rounding)
            files = (*artifact.files, write_proof(artifact, job, temporary))
    except OSError as error:
        raise ExportError(f"'{place}' cannot be written: {error.strerror or error}") from error
    return replace(artifact, files=tuple(f"{wanted.folder}/{file}" for file in files))

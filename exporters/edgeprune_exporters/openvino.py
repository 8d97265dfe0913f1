"""OpenVINO files (``model.xml`` and ``model.bin``), converted from the ONNX graph.

From ONNX and not from torch: OpenVINO's own path from torch lacks rules that
torch.onnx has (antialiased interpolation), and it reports its use.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from edgeprune.errors import ExportError
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.barriers import separate_maps
from edgeprune_exporters.execution import read_execution
from edgeprune_exporters.external_data import save_graph
from edgeprune_exporters.job import Job
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.opsets import opset_of
from edgeprune_exporters.proving import prove_artifact
from edgeprune_exporters.quantization import Quantized, quantize_openvino
from edgeprune_exporters.runtimes import (
    INPUT,
    import_openvino,
    last_line,
    load_openvino,
    missing,
)

FILE: Final = "model.xml"
SECTION: Final = "edgeprune"


class OpenvinoExporter:
    """Write ``model.xml`` and ``model.bin``.

    The weights are float32 (fp32), float16 (fp16), or int8 wherever a layer was
    quantised (int8).
    """

    @property
    def takes(self) -> frozenset[str]:
        """Names of the options that mean something to this format."""
        return frozenset({"batch", "max_drop"})

    def refusal(self, model: Exportable, target: Target, precision: str) -> str | None:
        """Say why this model cannot be exported for the target, or None."""
        del model, target
        if reason := missing("openvino", "OpenVINO"):
            return reason
        return missing("nncf", "NNCF, which quantises,") if precision == "int8" else None

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        """Convert, quantise where asked, and prove the files."""
        path = folder / FILE
        with TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch) / "model.onnx"
            save_graph(job.graph, source)
            model = _convert(source)
            found = quantize_openvino(model, job) if precision == "int8" else Quantized(graph=model)
        _save(found.graph, path, job, half=precision == "fp16")
        return Artifact(
            format="openvino",
            runtime="openvino",
            precision=precision,
            files=(path.name, path.with_suffix(".bin").name),
            opset=opset_of(job.graph),
            proof=prove_artifact(load_openvino(path), job, precision),
            kept=found.kept,
            notes=(*job.prepared.notes, *found.notes, read_execution(path).note),
        )


def _convert(source: Path) -> Any:  # noqa: ANN401 - OpenVINO has no types
    try:
        model = import_openvino().Core().read_model(source)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot convert the ONNX graph: {last_line(error)}") from error
    _fold_constants(model)
    separate_maps(model)
    _name_operators(model)
    return model


def _fold_constants(model: Any) -> None:  # noqa: ANN401
    """Compute what is known: a bias that is reshaped first is none to NNCF, which corrects them."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def _save(model: Any, path: Path, job: Job, *, half: bool) -> None:  # noqa: ANN401
    openvino = import_openvino()
    if job.fixed_batch is not None:
        model.reshape({INPUT: openvino.PartialShape([job.fixed_batch, *job.model.shape])})
    _name_operators(model)
    for section in list(model.rt_info.keys()):  # metadata of the ONNX file, settings of NNCF
        del model.rt_info[section]
    for key, value in sorted(job.metadata.items()):
        model.set_rt_info(value, [SECTION, key])
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # OpenVINO does not say why: in practice the disk is full
        raise ExportError(f"'{path.name}' cannot be written: {last_line(error)}") from error


def _name_operators(model: Any) -> None:  # noqa: ANN401
    """Number the operators that OpenVINO named itself, by their type and a count.

    It counts on from whatever was converted before in the process, and two
    exports of one model would differ. A constant is named after what it came from.
    """
    for position, operator in enumerate(model.get_ordered_ops()):
        kind, _, number = operator.get_friendly_name().rpartition("_")
        constant = operator.get_type_name() == "Constant" and kind.isalpha()
        if number.isdigit() and (constant or kind == operator.get_type_name()):
            operator.set_friendly_name(f"{kind}_{position}")

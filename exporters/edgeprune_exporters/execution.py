"""What OpenVINO really computes in on this processor, read back from what it compiled.

A file says which precision it would like. The runtime decides: float32 files run in
bfloat16 on processors that have it, and a layer in int8 goes back to float where no
kernel fits. Shares are of multiply-accumulates (MACs) at batch 1.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeprune.errors import ExportError
from edgeprune_exporters.quantization.openvino_subject import openvino_layers
from edgeprune_exporters.runtimes import INPUT, THREADS, import_openvino, last_line

INTEGERS: Final = frozenset({"i8", "u8"})
FUSED: Final = frozenset({"Add", "Multiply"})
RENAMED: Final = "/DequantizationMultiply"  # what int8 adds to the name of a matrix product


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a compiled model runs where nothing is asked for.

    Attributes:
        precision: of arithmetic on floats, as the runtime reports it, such as ``bf16``.
        layers: how many layers with MACs run in each precision.
        macs: the share of the MACs in each precision.
    """

    precision: str
    layers: Mapping[str, int]
    macs: Mapping[str, float]

    @property
    def note(self) -> str:
        """Say it in a sentence."""
        count = sum(self.layers.values())
        integer = sum(n for name, n in self.layers.items() if name in INTEGERS)
        share = sum(part for name, part in self.macs.items() if name in INTEGERS)
        said = (
            f"on this processor OpenVINO computes floats in {self.precision} unless told otherwise"
        )
        if not integer:
            return said
        return f"{said}, and {integer} of {count} layers with {share:.1%} of the MACs in int8"


def read_execution(path: Path) -> Execution:
    """Compile a file as a device would by default, and read back what runs in what.

    Raises:
        ExportError: OpenVINO cannot load it.
    """
    openvino = import_openvino()
    core = openvino.Core()
    try:
        model = core.read_model(path)
        shape = model.input(INPUT).partial_shape
        if shape.is_dynamic:
            model.reshape({INPUT: openvino.PartialShape([1, *list(shape)[1:]])})
        compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": THREADS})
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot load '{path.name}': {last_line(error)}") from error
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    layers: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    for ran, count in _ran(model, compiled.get_runtime_model(), precision):
        layers[ran] += 1
        macs[ran] += count
    return Execution(
        precision=precision,
        layers=dict(sorted(layers.items())),
        macs={name: macs[name] / macs.total() for name in sorted(macs)},
    )


def _ran(model: Any, compiled: Any, floats: str) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - OpenVINO has no types
    """Yield what each layer with MACs ran in, and how many it has."""
    precisions = _precisions(compiled)
    quantised = {layer.name for layer in openvino_layers(model)}
    for operator in model.get_ordered_ops():
        count = _macs(operator)
        found = [precisions[name] for name in _names(operator) if name in precisions]
        if not count or not found:
            continue  # computed once, when the file was compiled
        # Attention is compiled into one node: in integers if any product within it is.
        inside = found[0] in INTEGERS and operator.get_friendly_name() not in quantised
        yield floats if inside else found[0], count


def _precisions(compiled: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the precision that each operator of the file ended up in."""
    found = {}
    for node in compiled.get_ops():
        info = node.get_rt_info()
        for name in info["originalLayersNames"].astype(str).split(","):
            found[name.removesuffix(RENAMED)] = info["runtimePrecision"].astype(str)
    return found


def _names(operator: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the names that an operator may have when compiled: its own, or that of its bias."""
    while True:
        yield operator.get_friendly_name()
        readers = list(operator.output(0).get_target_inputs())
        if len(readers) != 1 or readers[0].get_node().get_type_name() not in FUSED:
            return
        operator = readers[0].get_node()


def _macs(operator: Any) -> int:  # noqa: ANN401
    """Count the MACs of a convolution or a matrix product of fixed shape; 0 for the rest."""
    match operator.get_type_name():
        case "Convolution":
            each = math.prod(operator.input(1).get_shape()[1:])
        case "GroupConvolution":
            each = math.prod(operator.input(1).get_shape()[2:])
        case "MatMul":
            transposed = operator.get_attributes()["transpose_a"]
            each = operator.input(0).get_shape()[-2 if transposed else -1]
        case _:
            return 0
    return int(each * math.prod(operator.output(0).get_shape()))

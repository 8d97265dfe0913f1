"""What OpenVINO really computes in on this processor, read back from what it compiled.

A file says which precision it would like. The runtime decides: float32 files run in
bfloat16 on processors that have it, and a layer in int8 goes back to float where no
kernel fits. Shares are of multiply-accumulates (MACs) at batch 1.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeprune.errors import ExportError
from edgeprune_exporters.runtimes import INPUT, THREADS, import_openvino, last_line

INTEGERS: Final = frozenset({"i8", "u8"})
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
    ran = _precisions(compiled.get_runtime_model())
    macs = {name: count for name, count in _macs(model).items() if name in ran}
    total = max(sum(macs.values()), 1)
    shares: Counter[str] = Counter()
    for name, count in macs.items():
        shares[ran[name]] += count
    return Execution(
        precision=compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        layers=dict(sorted(Counter(ran[name] for name in macs).items())),
        macs={name: shares[name] / total for name in sorted(shares)},
    )


def _precisions(model: Any) -> dict[str, str]:  # noqa: ANN401 - OpenVINO has no types
    """Return the precision that each operator of the file ended up in."""
    found = {}
    for operator in model.get_ops():
        info = operator.get_rt_info()
        for name in info["originalLayersNames"].astype(str).split(","):
            found[name.removesuffix(RENAMED)] = info["runtimePrecision"].astype(str)
    return found


def _macs(model: Any) -> dict[str, int]:  # noqa: ANN401
    """Count the MACs of convolutions and matrix products by name, of a model of fixed shape."""
    counts = {}
    for operator in model.get_ops():
        match operator.get_type_name():
            case "Convolution":
                each = math.prod(operator.input(1).get_shape()[1:])
            case "GroupConvolution":
                each = math.prod(operator.input(1).get_shape()[2:])
            case "MatMul":
                transposed = operator.get_attributes()["transpose_a"]
                each = operator.input(0).get_shape()[-2 if transposed else -1]
            case _:
                continue
        counts[operator.get_friendly_name()] = each * math.prod(operator.output(0).get_shape())
    return counts

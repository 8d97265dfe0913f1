"""Keep large weights out of the way of what does not look at them.

A graph is copied by whoever infers its types or runs it; weights that are only
referred to are not.
"""

from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeprune.errors import ExportError

SMALL: Final = 1024  # bytes: up to here a tensor stays in the graph, as shapes have to


def take_weights(model: ir.Model) -> dict[str, NDArray[Any]]:
    """Replace the large tensors of a model by references, and return them.

    Types that numpy has not, as int4, stay in the graph.
    """
    taken = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SMALL:
            continue
        array = np.ascontiguousarray(tensor.numpy())
        if array.dtype.kind in "biuf":
            taken[name] = array
            value.const_value = ir.ExternalTensor(
                "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=name
            )
    return taken


def inferred(model: ir.Model) -> ir.Model:
    """Return a model with the types and shapes that ONNX infers strictly, without its weights.

    Raises:
        ExportError: it is not valid.
    """
    skeleton = model.clone()
    take_weights(skeleton)
    try:
        proto = onnx.shape_inference.infer_shapes(
            ir.to_proto(skeleton), check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"the graph is not valid ONNX: {reason}") from error
    return ir.from_proto(proto)

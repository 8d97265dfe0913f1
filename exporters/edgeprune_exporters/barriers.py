"""Where OpenVINO would fold a map over space into a convolution.

A product with a constant, read by a convolution, is the convolution with other
weights, as long as the constant is the same at every position. OpenVINO folds
any constant that its kernel could hold: a map of 7 × 7 positions into a kernel
of 7 × 7, with a wrong result. A barrier between the two, which changes no
value, keeps them apart.
"""

from typing import Any, Final

from edgeprune_exporters.runtimes import import_openvino

PRODUCTS: Final = ("Multiply", "Divide")
CONVOLUTIONS: Final = ("Convolution", "GroupConvolution")
LARGEST: Final = 3.4e38  # nearly what float32 can hold


def separate_maps(model: Any) -> None:  # noqa: ANN401 - OpenVINO has no types
    """Put a barrier behind every product with a map over space that a convolution reads."""
    for operator in model.get_ordered_ops():
        if operator.get_type_name() in CONVOLUTIONS:
            source = operator.input(0).get_source_output()
            if _is_product_with_a_map(source):
                operator.input(0).replace_source_output(_barrier(source))


def _is_product_with_a_map(value: Any) -> bool:  # noqa: ANN401
    product = value.get_node()
    if product.get_type_name() not in PRODUCTS:
        return False
    space = len(value.get_partial_shape()) - 2
    factors = [place.get_source_output() for place in product.inputs()]
    return any(
        max(list(factor.get_shape())[-space:], default=1) > 1
        for factor in factors
        if factor.get_node().get_type_name() == "Constant"
    )


def _barrier(value: Any) -> Any:  # noqa: ANN401
    """Clamp to nearly all that there is: no optimisation takes that away."""
    clamp = import_openvino().opset1.clamp(value, -LARGEST, LARGEST)
    clamp.set_friendly_name(f"{value.get_node().get_friendly_name()}_barrier")
    return clamp.output(0)

"""int8: where to round, what it costs in accuracy, and what has to stay in float for that."""

from edgeprune_exporters.quantization.onnx_subject import Scheme, quantize_graph
from edgeprune_exporters.quantization.openvino_subject import quantize_openvino
from edgeprune_exporters.quantization.subject import Quantized

__all__ = ["Quantized", "Scheme", "quantize_graph", "quantize_openvino"]

"""A target as a value: what the later stages may ask of a device."""

from dataclasses import dataclass
from typing import Final

RUNTIMES: Final = ("openvino", "onnxruntime", "tensorrt")
PRECISIONS: Final = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Device:
    """Facts about the hardware and the software it ships with.

    Attributes:
        source: where the facts come from.
        jetpack: NVIDIA's system release.
        tensorrt: version of TensorRT in that release.
        memory_gb: memory that processor and accelerator share.
        compute_capability: of its GPU, as NVIDIA numbers them.
        dla_cores: deep learning accelerators that its TensorRT can use.
        workspace_mb: memory in MiB that building an engine may use.
    """

    source: str
    jetpack: str | None = None
    tensorrt: str | None = None
    memory_gb: float | None = None
    compute_capability: str | None = None
    dla_cores: int = 0
    workspace_mb: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the hardware can do at best, for estimates of latency.

    Attributes:
        source: where the figures come from.
        fp32_tflops, fp16_tflops: dense floating-point operations, 10¹² per second.
        int8_tops: dense integer operations, 10¹² per second.
        bandwidth_gbs: of the memory, 10⁹ bytes per second.
        compute_share, bandwidth_share: what of these a real network reaches.
        launch_us: microseconds that starting one layer costs.
    """

    source: str
    fp32_tflops: float
    bandwidth_gbs: float
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    compute_share: float = 0.6
    bandwidth_share: float = 0.7
    launch_us: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a model is cut, exported and measured for.

    Attributes:
        name: as ``--target`` takes it.
        description: one line for people.
        runtime: what is measured, one of ``RUNTIMES``.
        formats: the formats to write, by exporter name, as ``onnx`` or ``onnx:fp32``.
        precision: of weights and arithmetic, one of ``PRECISIONS``, where a format names none.
        precisions: those that the device can run.
        max_batch: the largest batch that it is used with; parity is proven there too.
        align: the multiple on which pruned widths end, in channels.
        opset: version of the ONNX operator set that the device can read.
        threads: processor threads a measurement uses.
        device: facts about the hardware, where it is one known device.
        rates: what the hardware can do at best, where that is known.
    """

    name: str
    description: str
    runtime: str
    formats: tuple[str, ...]
    align: int
    opset: int
    precision: str = "fp32"
    precisions: tuple[str, ...] = PRECISIONS
    max_batch: int = 8
    threads: int = 1
    device: Device | None = None
    rates: Rates | None = None

    @property
    def measured_here(self) -> bool:
        """Whether the runtime can be measured on the machine that exports."""
        return self.not_measured is None

    @property
    def not_measured(self) -> str | None:
        """Say why nothing is measured here and what to do instead, or None."""
        if self.runtime != "tensorrt":
            return None
        version = f" {self.device.tensorrt}" if self.device and self.device.tensorrt else ""
        return (
            f"TensorRT{version} engines are built on the device that runs them, so latency on "
            f"'{self.name}' was not measured here: copy the ONNX file there and build from it"
        )

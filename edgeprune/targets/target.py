"""A target as a value: what the later stages may ask of a device."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

RUNTIMES: Final = ("openvino", "onnxruntime", "tensorrt")
PRECISIONS: Final = ("fp32", "fp16", "int8")
# By family, the names that operating systems give to a processor.
PROCESSORS: Final[Mapping[str, tuple[str, ...]]] = {
    "x86": ("x86_64", "AMD64"),
    "arm": ("aarch64", "arm64", "ARM64"),
}
INT8_BLOCK: Final = 32  # channels in a block of TensorRT's int8 layout


@dataclass(frozen=True, kw_only=True)
class Device:
    """Facts about the hardware and the software it ships with.

    Attributes:
        source: where the facts come from.
        doubt: what of them is second-hand or was not confirmed.
        jetpack: NVIDIA's system release.
        tensorrt: version of TensorRT in that release; where the user installs it, the
            oldest that will do.
        memory_gb: memory of the device; on a Jetson processor and GPU share it.
        compute_capability: of its GPU, as NVIDIA numbers them.
        dla_cores: deep learning accelerators that its TensorRT can use.
        workspace_mb: memory in MiB that building an engine may use.
    """

    source: str
    doubt: str | None = None
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
        doubt: what of them is second-hand, derived or was not confirmed.
        fp32_tflops, fp16_tflops: dense floating-point operations, 10¹² per second; a
            multiply-accumulate is two.
        int8_tops: dense integer operations, 10¹² per second, likewise.
        bandwidth_gbs: of the memory, 10⁹ bytes per second.
        clock_mhz: clock of the GPU that the figures hold at; a power mode may lower it.
        compute_share, bandwidth_share: what of these a real network reaches, above 0 to 1.
        launch_us: microseconds that starting one kernel costs.
    """

    source: str
    fp32_tflops: float
    bandwidth_gbs: float
    doubt: str | None = None
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    clock_mhz: float | None = None
    compute_share: float = 0.6
    bandwidth_share: float = 0.7
    launch_us: float = 5.0

    def peak(self, precision: str) -> float | None:
        """Return the dense operations per second at a precision, 10¹², or None if unknown."""
        peaks = {"fp32": self.fp32_tflops, "fp16": self.fp16_tflops, "int8": self.int8_tops}
        return peaks[precision]


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
        processor: family of its processor, one of ``PROCESSORS``; None for any.
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
    processor: str | None = None
    device: Device | None = None
    rates: Rates | None = None

    @property
    def measured_here(self) -> bool:
        """Whether the runtime can be measured on the machine that exports."""
        return self.not_measured is None

    @property
    def not_measured(self) -> str | None:
        """Say why nothing is measured here and what to do instead, or None."""
        if self.runtime == "tensorrt":
            return (
                "TensorRT engines are built on the device that runs them, so latency on "
                f"'{self.name}' was not measured here: copy what was written there, build the "
                "engine and measure it"
            )
        machine = platform.machine()
        if self.processor is not None and machine not in PROCESSORS[self.processor]:
            return (
                f"this machine's processor is {machine}, so latency on '{self.name}' was not "
                "measured here: run edgeprune there"
            )
        return None

    def block(self, precision: str) -> int:
        """Return how many channels a kernel of that precision works on at once."""
        if precision == "int8" and self.runtime == "tensorrt":
            return max(self.align, INT8_BLOCK)
        return self.align

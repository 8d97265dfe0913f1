"""A target as a value: what the later stages may ask of a device."""

from dataclasses import dataclass
from typing import Final

RUNTIMES: Final = ("openvino", "onnxruntime", "tensorrt")
PRECISIONS: Final = ("fp32",)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Facts about the hardware and the software it ships with.

    Attributes:
        source: where the facts come from.
        jetpack: NVIDIA's system release.
        tensorrt: version of TensorRT in that release.
        memory_gb: memory that processor and accelerator share.
    """

    source: str
    jetpack: str | None = None
    tensorrt: str | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a model is cut, exported and measured for.

    Attributes:
        name: as ``--target`` takes it.
        description: one line for people.
        runtime: what is measured, one of ``RUNTIMES``.
        formats: the formats to write, by exporter name.
        precision: of weights and arithmetic, one of ``PRECISIONS``.
        align: the multiple on which pruned widths end, in channels.
        opset: version of the ONNX operator set that the device can read.
        threads: processor threads a measurement uses.
        device: facts about the hardware, where it is one known device.
    """

    name: str
    description: str
    runtime: str
    formats: tuple[str, ...]
    align: int
    opset: int
    precision: str = "fp32"
    threads: int = 1
    device: Device | None = None

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

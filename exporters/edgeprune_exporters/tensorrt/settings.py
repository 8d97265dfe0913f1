"""What engine is to be built, from what was asked for and what the device has."""

from collections.abc import Mapping
from typing import Final

from edgeprune.errors import UsageError
from edgeprune.targets import Target
from edgeprune.targets.target import Device
from edgeprune.targets.tensorrt_versions import Version, read_version
from edgeprune_exporters.job import Job
from edgeprune_exporters.runtimes import INPUT
from edgeprune_exporters.tensorrt.trtexec import Engine

FILE: Final = "model.onnx"
FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "fp32": (),
    "fp16": ("FP16",),
    "int8": ("INT8", "FP16"),
}
WORKSPACE_MB: Final = 1024  # where the device's memory is not known
WORKSPACE_SHARE: Final = 4  # a Jetson's processor and GPU share the memory: a quarter of it


def version_of(target: Target) -> Version | None:
    """Return the version of TensorRT that a target has, if it says so."""
    device = target.device
    return read_version(device.tensorrt) if device and device.tensorrt else None


def engine_of(job: Job, precision: str) -> Engine:
    """Return what is to be built.

    Raises:
        UsageError: the device has no such accelerator, or less memory.
    """
    device = job.target.device
    _check_dla(job, device, precision)
    return Engine(
        onnx=FILE,
        input=INPUT,
        profile=_profile(job),
        precision_flags=FLAGS[precision],
        workspace_mb=_workspace_mb(job, device),
        dla_core=job.options.dla_core,
    )


def _profile(job: Job) -> dict[str, tuple[int, ...]] | None:
    if job.fixed_batch is not None:
        return None
    sizes = {"min": 1, "opt": 1, "max": job.target.max_batch}
    return {which: (size, *job.model.shape) for which, size in sizes.items()}


def _workspace_mb(job: Job, device: Device | None) -> int:
    memory_mb = int(device.memory_gb * 1024) if device and device.memory_gb else None
    asked = job.options.workspace_mb
    if asked is not None and memory_mb is not None and asked > memory_mb:
        raise UsageError(
            f"--workspace-mb {asked} is more than the {memory_mb} MiB of '{job.target.name}'"
        )
    known = asked or (device.workspace_mb if device else None)
    if known is not None:
        return known
    return memory_mb // WORKSPACE_SHARE if memory_mb is not None else WORKSPACE_MB


def _check_dla(job: Job, device: Device | None, precision: str) -> None:
    core, cores = job.options.dla_core, device.dla_cores if device else 0
    if core is None:
        return
    if cores == 0:
        raise UsageError(
            f"--dla-core {core}: '{job.target.name}' has no deep learning accelerator that its "
            "TensorRT can use: leave the option out"
        )
    if core >= cores:
        raise UsageError(
            f"--dla-core {core}: '{job.target.name}' has {cores}, numbered from 0: "
            f"give {cores - 1} or less"
        )
    if job.fixed_batch is None:
        raise UsageError(f"--dla-core {core} takes one batch size: give --batch N as well")
    if precision != "fp16":
        # Of int8 it takes what TensorRT's own calibration made, and no Q and DQ in a graph.
        raise UsageError(
            f"--dla-core {core} takes graphs in fp16, and {precision} was asked for: "
            "give --precision fp16, or the format as tensorrt:fp16"
        )

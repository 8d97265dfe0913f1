"""What is asked of both tools alike, once a model is smaller.

One exporter serves both, so that a difference lies in the pruning and not in
the way to ONNX: the peer's pruned module is captured first.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import Captured
from edgeprune.targets import load_target
from edgeprune_exporters import EXPORTERS, Images, Job, TorchModel
from peers.coverage_journal import Journal

BATCH: Final = 2
SEED: Final = 0
MIB: Final = 2**20


def check_exports(journal: Journal, model: Captured, images: Tensor) -> None:
    """Note how far ONNX Runtime and OpenVINO are from torch, relative, at batch 1 and 3."""
    job = Job(model=TorchModel(model), target=load_target("cpu"), images=Images(parity=images))
    for name in ("onnx", "openvino"):
        with TemporaryDirectory() as folder:
            artifact = journal.run(name, partial(EXPORTERS[name].export, job, "fp32", Path(folder)))
        if artifact is not None:
            journal.note({name: artifact.proof.to_dict() | {"max_rel": artifact.proof.max_rel}})


def check_training(module: nn.Module, images: Tensor, *, everywhere: bool) -> None:
    """Take one step of gradient descent.

    Args:
        module: what was cut; it is changed.
        images: (N, 3, H, W).
        everywhere: whether every parameter must receive a gradient.

    Raises:
        ValueError: a parameter without gradient, or one that is not finite.
    """
    torch.manual_seed(SEED)
    module.train()
    loss = F.cross_entropy(_logits(module(images)), torch.arange(len(images)))
    loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in module.named_parameters() if p.grad is None]
    if without and (everywhere or len(without) == len(list(module.parameters()))):
        raise ValueError(f"no gradient for {len(without)} parameters, such as '{without[0]}'")
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise ValueError(f"the gradient of '{name}' is not finite")
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    module.eval()


def _logits(output: object) -> Tensor:
    """Return the logits; distilled models return those of two heads when they train."""
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor):
        raise TypeError(f"the model returns {type(first).__name__}")
    return first


def sizes(module: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every parameter by name."""
    return {name: list(parameter.shape) for name, parameter in module.named_parameters()}


def weight_bytes(module: nn.Module) -> int:
    """Return what a module's parameters and buffers occupy."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def resident() -> float:
    """Return the memory this process holds now, in MiB."""
    return _status("VmRSS")


def peak() -> float:
    """Return the most memory this process held since ``reset_peak``, in MiB."""
    return _status("VmHWM")


def reset_peak() -> float:
    """Begin to watch for the peak, and return what the process holds now, in MiB."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident()


def memory(held: float, weights: int) -> Mapping[str, Any]:
    """Return the peak of a step, in MiB and as multiple of the weights' bytes.

    It is the weights themselves and what the step took beyond ``held``, the
    process with the model before it; what torch.export leaves behind is not in it.
    """
    used = max(peak() - held, 0.0) + weights / MIB
    return {"peak_mib": round(used, 1), "peak_ratio": round(used * MIB / weights, 2)}


def _status(key: str) -> float:
    path = Path(f"/proc/{os.getpid()}/status")
    if not path.exists():  # only Linux tells
        return 0.0
    line = next(x for x in path.read_text(encoding="ascii").splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024

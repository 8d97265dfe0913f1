"""Running a user's model without leaving a trace in it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode; afterwards restore modes, buffers and attributes.

    What forward keeps for itself (a counter, the last attention map) is as it was before.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in modes}
    attributes: dict[nn.Module, dict[str, Any]] = {module: dict(vars(module)) for module in modes}
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            vars(module).clear()
            vars(module).update(attributes[module])
            module._buffers.clear()
            module._buffers.update(buffers[module])
            module.training = mode
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)

"""Running or copying a user's model without leaving a trace in it."""

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import CaptureError


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode; afterwards restore modes, buffers and attributes.

    What forward keeps for itself (a counter, a cache, the last attention map) is
    as it was before.
    """
    modes = {module: module.training for module in model.modules()}
    attributes: dict[nn.Module, dict[str, Any]] = {module: dict(vars(module)) for module in modes}
    containers = [
        (value, value.copy())
        for named in attributes.values()
        for value in named.values()
        if type(value) in (dict, list, OrderedDict)
    ]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    forget(model)
    try:
        yield
    finally:
        for module, mode in modes.items():
            vars(module).clear()
            vars(module).update(attributes[module])
            module.training = mode
        for container, content in containers:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


def forget(model: nn.Module) -> None:
    """Let the model drop what it computed from its weights and kept for evaluation.

    Such caches are cleared, by convention, on the way into training mode. They may
    be older than the weights; and export would take what lies in them for constants.
    """
    model.train()
    model.eval()


def deep_copy(model: nn.Module) -> nn.Module:
    """Copy a model; tensors that a hook computed, which torch refuses to copy, by value.

    Raises:
        CaptureError: it cannot be copied.
    """
    memo = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # the user's own objects may refuse
        raise CaptureError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}): take out "
            "of it what refuses, or build it anew"
        ) from error

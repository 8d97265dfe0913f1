"""Weights that are computed from other weights, made plain.

Weight and spectral normalisation, orthogonal matrices and masks of torch's own
pruning compute a weight anew in every forward. A cut needs the weight itself.
Invariant: the user's model keeps its parametrizations; a copy loses them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgeprune.untouched import deep_copy

SHOWN = 3


class Computed(NamedTuple):
    """A tensor that a module computes, by what, and how to make it plain."""

    tensor: str
    by: str
    remove: Callable[[], object]


def without_parametrizations(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model with plain weights, and a note for what was done.

    The model itself if all its weights are plain, otherwise a copy in the same mode.

    Raises:
        CaptureError: the model cannot be copied.
    """
    if next(_computed(model), None) is None:
        return model, ()
    plain = deep_copy(model)
    found: dict[str, list[str]] = {}
    for computed in list(_computed(plain)):
        with torch.no_grad():
            computed.remove()
        found.setdefault(computed.by, []).append(computed.tensor)
    return plain, tuple(_note(by, tensors) for by, tensors in found.items())


def _computed(model: nn.Module) -> Iterator[Computed]:
    for path, module in model.named_modules():
        yield from _parametrized(path, module)
        for hook in list(module._forward_pre_hooks.values()):
            computed = _hooked(path, module, hook)
            if computed is not None:
                yield computed


def _parametrized(path: str, module: nn.Module) -> Iterator[Computed]:
    lists = getattr(module, "parametrizations", None)
    if not isinstance(lists, nn.ModuleDict) or not parametrize.is_parametrized(module):
        return
    for name, parts in lists.items():
        by = ", ".join(type(part).__name__.lstrip("_") for part in parts.children())
        yield Computed(_join(path, name), by, lambda: _make_plain(module))


def _make_plain(module: nn.Module) -> None:
    """Replace all parametrizations of a module by what they compute now.

    torch's own removal deletes the property from the class, which a copy shares
    with the user's model.
    """
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, nn.ModuleDict):
        return  # done with another tensor of the module
    values = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        if any(True for _ in lists[name].parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


def _hooked(path: str, module: nn.Module, hook: object) -> Computed | None:
    """Recognise the older way, by a hook before every forward."""
    match hook:
        case WeightNorm(name=name):
            return Computed(
                _join(path, name), "WeightNorm", lambda: remove_weight_norm(module, name)
            )
        case SpectralNorm(name=name):
            return Computed(
                _join(path, name), "SpectralNorm", lambda: remove_spectral_norm(module, name)
            )
        case prune.BasePruningMethod():
            name = str(hook._tensor_name)
            return Computed(_join(path, name), "pruning", lambda: _unpruned(module, name))
        case _:
            return None


def _unpruned(module: nn.Module, name: str) -> nn.Module:
    pruned: nn.Module = prune.remove(module, name)  # type: ignore[no-untyped-call]
    return pruned


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _note(by: str, tensors: list[str]) -> str:
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    names = ", ".join(f"'{tensor}'" for tensor in tensors[:SHOWN])
    return f"{by} was computed once and its result captured as a plain weight: {names}{more}"

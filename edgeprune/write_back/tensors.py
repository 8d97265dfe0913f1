"""The tensors of a cut graph, written into a module of the user's own class.

Invariant: a tensor has the same name in both; what is tied in either stays tied.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeprune.errors import CutError
from edgeprune.parametrizations import without_parametrizations
from edgeprune.tensors import state
from edgeprune.untouched import deep_copy, forget


def copy_of(model: nn.Module) -> nn.Module:
    """Copy the user's module in evaluation mode, its weights plain as capture makes them.

    Raises:
        CaptureError: it cannot be copied.
    """
    plain, _ = without_parametrizations(deep_copy(model).eval())
    return plain


def write_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module the values and shapes of a cut graph's tensors, as copies.

    Raises:
        CutError: a parameter is larger than the module's.
    """
    own = state(module)
    names: dict[int, list[str]] = {}
    for name, tensor in own.items():
        names.setdefault(id(tensor), []).append(name)
    written: dict[int, Tensor] = {}
    for name, value in tensors.items():
        before = own.get(name)
        if before is None:
            _write_plain(module, name, value)
            continue
        _require_smaller(name, before, value)
        after = written.setdefault(id(value), _like(before, value))
        for alias in names[id(before)]:
            _place(module, alias, after)
    forget(module)


def _like(before: Tensor, value: Tensor) -> Tensor:
    copied = value.detach().clone()
    if isinstance(before, nn.Parameter):
        return nn.Parameter(copied, requires_grad=before.requires_grad)
    return copied


def _place(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    entries: Mapping[str, Tensor | None] = (
        owner._parameters if leaf in owner._parameters else owner._buffers
    )
    entries[leaf] = tensor  # type: ignore[index]  # a dict, whose value types differ


def _write_plain(module: nn.Module, name: str, value: Tensor) -> None:
    """Write a tensor that a module keeps as an ordinary attribute; others are of the code."""
    path, _, leaf = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        return
    if isinstance(vars(owner).get(leaf), Tensor):
        with torch.no_grad():
            setattr(owner, leaf, value.detach().clone())


def _require_smaller(name: str, before: Tensor, value: Tensor) -> None:
    if not isinstance(before, nn.Parameter):
        return  # code may compute a buffer anew, in another shape, when it first needs it
    sizes = zip(before.shape, value.shape, strict=False)
    if before.dim() != value.dim() or any(new > old for old, new in sizes):
        raise CutError(
            f"the model is not the one that was cut: '{name}' is {tuple(before.shape)} there and "
            f"{tuple(value.shape)} in the cut; give the same class and configuration that was "
            "captured, before any cut"
        )

"""The tensors of a module by name, and how they are stored.

A tied tensor is one object under several names. Invariant: tying survives
listing, copying and storing; a stored file holds it once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.errors import ModelError
from edgeprune.files import replacing


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, a tied one under each of its names."""
    named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def trainable(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters, a tied one under each of its names."""
    return frozenset(name for name, _ in module.named_parameters(remove_duplicate=False))


def aliases(module: nn.Module) -> dict[str, str]:
    """Map every further name of a tied tensor to its first."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, tensor in state(module).items():
        original = first.setdefault(id(tensor), name)
        if original != name:
            found[name] = original
    return found


def map_tensors(
    tensors: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Change every tensor once, so that tied ones stay tied."""
    changed = {id(tensor): tensor for tensor in tensors.values()}
    changed = {key: change(tensor) for key, tensor in changed.items()}
    return {name: changed[id(tensor)] for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, a tied one once, whole or not at all."""
    unique: dict[int, str] = {}
    for name, tensor in tensors.items():
        unique.setdefault(id(tensor), name)
    flat = {name: tensors[name].detach().cpu().contiguous() for name in sorted(unique.values())}
    with replacing(path) as temporary:
        save_file(flat, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file.

    Raises:
        ModelError: the file is missing or is not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: in the file they lie at any address, and kernels round by alignment.
            names = list(file.keys())
            return {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError:
        raise ModelError(f"'{path.name}' is missing from '{path.parent.name}'") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{path.name}' is not a whole safetensors file: {error}") from None

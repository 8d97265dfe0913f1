"""Weights from a file into a model, tensor by tensor.

A file of weights may come from anyone. Invariant: nothing in it is ever run
(safetensors, or ``torch.load`` restricted to tensors), and a model is either
given every tensor it needs or left as it was. Only the head may stay fresh,
and the report says so.
"""

import pickle
import pickletools
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeprune.errors import WeightsError
from edgeprune.files import sha256

PICKLED: Final = (".pt", ".pth", ".bin", ".ckpt", ".tar")
# An average of the weights comes first: where one is kept, it is what was evaluated.
WRAPPERS: Final = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES: Final = ("module.", "_orig_mod.", "model.")
SHOWN: Final = 3
HEAD_DEVIATION: Final = 0.01  # standard deviation of a fresh head's weights, at most

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What was taken from a file of weights.

    Attributes:
        file: its name, without the folder.
        sha256: of the whole file, hexadecimal.
        loaded: number of tensors taken.
        fresh: tensors of the head that kept their initialisation.
        notes: what a user should know, one sentence each.
    """

    file: str
    sha256: str
    loaded: int
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_weights(model: nn.Module, path: Path) -> WeightsReport:
    """Copy the file's tensors into the model; a head of another size stays fresh.

    Raises:
        WeightsError: the file cannot be read, would run code, holds numbers that
            are not finite, or does not fit; the model is then unchanged.
    """
    tensors, wrapper = read_weights(path)
    notes = [f"'{path.name}': the tensors under '{wrapper}' were used"] if wrapper else []
    if broken := [name for name, tensor in tensors.items() if not _finite(tensor)]:
        raise WeightsError(
            f"'{path.name}': NaN or infinity in {_listed(broken)} of {len(tensors)} tensors; "
            "the training that wrote them diverged"
        )
    wanted = model.state_dict()
    tensors = _without_prefix(tensors, wanted)
    head = _head(model, tensors)
    if _problems(wanted, tensors, head):
        tensors, converted = _converted(model, tensors)
        notes += [f"'{path.name}': {converted}"] if converted else []
    if problem := _problems(wanted, tensors, head):
        raise WeightsError(f"'{path.name}' does not fit this model: {problem}")
    fresh = tuple(name for name in wanted if _of(head, name))
    if all(_fits(name, wanted, tensors) for name in fresh):
        fresh = ()
    if fresh:
        notes.append(_head_note(path.name, wanted, tensors, fresh))
    taken = {name: t for name, t in tensors.items() if name in wanted and name not in fresh}
    model.load_state_dict(taken, strict=False)
    if fresh:
        damp_head(model, head)
    return WeightsReport(
        file=path.name,
        sha256=sha256(path),
        loaded=len(taken),
        fresh=fresh,
        notes=tuple(notes),
    )


def timm_head(model: nn.Module) -> tuple[str, ...]:
    """Name the modules of a timm model that make its logits."""
    found = cast(Any, model).get_classifier()
    heads = found if isinstance(found, tuple | list) else (found,)
    names = {id(module): name for name, module in model.named_modules()}
    return tuple(names[id(head)] for head in heads if id(head) in names)


def damp_head(model: nn.Module, head: tuple[str, ...]) -> None:
    """Let a fresh head on a trained backbone begin nearly undecided.

    Some of timm's heads are drawn so wide for few classes that the loss begins at
    several nats, and undoing that harms the backbone. Not zero: a model whose
    logits are all equal would pass every comparison of outputs.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _of(head, name) and parameter.dim() == 1:
                parameter.zero_()
            elif _of(head, name):
                parameter.mul_(HEAD_DEVIATION / max(float(parameter.std()), HEAD_DEVIATION))


def read_weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read a file's tensors by name, and say under which key of the file they were.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at '{path}': give a .safetensors or .pt file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), None
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"'{path.name}' is not a whole safetensors file: {error}") from None
    if path.suffix not in PICKLED:
        raise WeightsError(
            f"'{path.name}' has the ending '{path.suffix}': give .safetensors, "
            f"or a state dict as {', '.join(PICKLED)}"
        )
    return _unwrapped(path.name, _read_pickle(path))


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path.name}' was not opened: it wants to load {_wanted(path, error)}, and loading "
            "that could run code. If you trust where it comes from, save its state_dict() as "
            "safetensors and give that"
        ) from None
    except Exception as error:  # torch.load raises whatever the damage led to
        reason = f"it is not a whole file of torch ({type(error).__name__})"
        if "TorchScript" in str(error):
            reason = "it is a TorchScript archive, which holds code"
        raise WeightsError(
            f"'{path.name}' was not opened: {reason}; give the model's state_dict() as safetensors"
        ) from None


def _wanted(path: Path, error: Exception) -> str:
    """Name what a refused pickle asks for."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"'{found[1]}'"
    strings: list[str] = []
    try:
        # Reads the opcodes of a bare pickle without carrying out any of them.
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "GLOBAL":
                return f"'{str(argument).replace(' ', '.')}'"
            if opcode.name == "STACK_GLOBAL":
                return f"'{'.'.join(strings[-2:])}'"
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        pass
    return "more than tensors"


def _unwrapped(name: str, content: object) -> tuple[dict[str, Tensor], str | None]:
    wrapper = None
    if isinstance(content, Mapping):
        wrapper = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
    inner = content[wrapper] if wrapper and isinstance(content, Mapping) else content
    if not isinstance(inner, Mapping):
        raise WeightsError(f"'{name}' holds a {type(content).__name__}, not tensors by name")
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(f"'{key}'" for key in list(inner)[:SHOWN]) or "nothing"
        raise WeightsError(f"'{name}' holds no tensors by name; its keys are {keys}")
    return tensors, wrapper


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _without_prefix(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what wrappers put before every name, as long as no name fits as it is."""
    while not tensors.keys() & wanted.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _head(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Name the modules that make the logits: timm knows, elsewhere the sizes tell."""
    if callable(getattr(model, "get_classifier", None)):
        return timm_head(model)
    wanted = model.state_dict()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    differs = {name.rpartition(".")[0] for name in wanted if not _fits(name, wanted, tensors)}
    return (linear[-1],) if linear and differs == {linear[-1]} else ()


def _of(head: tuple[str, ...], name: str) -> bool:
    return any(name.startswith(f"{module}.") for module in head)


def _fits(name: str, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    return name in tensors and tensors[name].shape == wanted[name].shape


def _converted(
    model: nn.Module, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], str | None]:
    """Let timm rename and resize, as for position embeddings of another image size."""
    convert = getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)
    if convert is None or not type(model).__module__.startswith("timm."):
        return tensors, None
    try:
        converted: dict[str, Tensor] = convert(dict(tensors), model)
    except Exception:  # written for files of a known origin, it raises anything on others
        return tensors, None
    changed = [n for n, t in converted.items() if n not in tensors or t.shape != tensors[n].shape]
    return converted, f"converted to this model: {_listed(changed)}" if changed else None


def _problems(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], head: tuple[str, ...]
) -> str | None:
    """Say which tensors do not fit, the head left aside, or None."""
    if not tensors.keys() & wanted.keys():
        return (
            f"none of its {len(tensors)} tensors has a name of the model "
            f"(file: {_listed(list(tensors))}; model: {_listed(list(wanted))})"
        )
    needed = [name for name in wanted if not _of(head, name)]
    shapes = {
        name: (tuple(tensors[name].shape), tuple(wanted[name].shape))
        for name in needed
        if name in tensors and not _fits(name, wanted, tensors)
    }
    # Files of before PyTorch 0.4.1 have no such counter, and nothing reads it in a fixed graph.
    missing = [n for n in needed if n not in tensors and not n.endswith("num_batches_tracked")]
    unknown = [name for name in tensors if name not in wanted and not _of(head, name)]
    if hint := _channels(shapes):
        return hint
    told = [(f"{name} is {seen}, the model's is {own}") for name, (seen, own) in shapes.items()]
    parts = [
        f"differing in shape: {len(told)} ({_some(told, '; ')})" if told else "",
        f"missing: {len(missing)} ({_some(missing)})" if missing else "",
        f"not in the model: {len(unknown)} ({_some(unknown)})" if unknown else "",
    ]
    return "; ".join(part for part in parts if part) or None


def _channels(shapes: Mapping[str, tuple[Shape, Shape]]) -> str | None:
    """Say that only the number of input channels differs, where that is so."""
    if len(shapes) != 1:
        return None
    ((name, (seen, own)),) = shapes.items()
    if len(seen) != 4 or len(own) != 4 or (seen[0], *seen[2:]) != (own[0], *own[2:]):
        return None
    return (
        f"{name} reads {seen[1]} input channels, the model's {own[1]}: build the model with "
        f"{seen[1]} (images are converted), or give weights for {own[1]}"
    )


def _head_note(
    file: str, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], fresh: tuple[str, ...]
) -> str:
    module = fresh[0].rpartition(".")[0]
    there = tensors.get(fresh[0])
    seen = "has no head" if there is None else f"has a head of {len(there)} classes"
    return (
        f"'{file}' {seen}: '{module}' was replaced by a fresh one of "
        f"{len(wanted[fresh[0]])} classes, which has to be trained"
    )


def _some(names: list[str], separator: str = ", ") -> str:
    return separator.join(names[:SHOWN]) + (f"{separator}…" if len(names) > SHOWN else "")


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({_some(names)})"

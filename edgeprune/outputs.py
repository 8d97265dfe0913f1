"""Which of a model's outputs holds the logits.

Models answer with a tensor, a tuple, a dictionary, a dataclass, or these within
one another. An output is named by its path: keys, fields and indices joined by
dots. Invariant: nothing is guessed; where no name tells, the user is asked.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Final, cast

from torch import Tensor, nn

from edgeprune.errors import CaptureError

WRAPPED: Final = "whole_model"  # where LogitsOnly keeps the model
USUAL: Final = ("logits", "out", "output")  # what libraries call the logits, best known first

Output = str | int | None


class LogitsOnly(nn.Module):
    """A model that returns its logits and nothing else."""

    def __init__(self, model: nn.Module, output: Output) -> None:
        """Wrap a model, in its present mode."""
        super().__init__()
        self.whole_model = model
        self.output = output
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Return the chosen output for images (N, C, H, W)."""
        return logits_of(self.whole_model(images), self.output)


def logits_of(answer: object, output: Output = None) -> Tensor:
    """Pick the logits out of what a model returned.

    Args:
        answer: whatever ``forward`` gave.
        output: the name, index or dotted path of the logits. None takes the only
            tensor there is, else the one named ``logits``, ``out`` or ``output``.

    Raises:
        CaptureError: there is no such output, or several and no way to tell.
    """
    if output is None:
        return _only(answer, answer)
    items = _items(answer)
    if items is not None and str(output) in items:
        return _only(items[str(output)], answer)
    value = answer
    for part in str(output).split("."):
        value = _item(value, part)
        if value is None:
            raise CaptureError(f"the model has no output '{output}': it returns {_listed(answer)}")
    return _only(value, answer)


def _only(value: object, answer: object) -> Tensor:
    tensors = _tensors(value)
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    items = _items(value) or {}
    usual = (items[name] for name in USUAL if isinstance(items.get(name), Tensor))
    chosen = next(usual, None)
    if chosen is None:
        how = "; name the one with the logits by output=… (--output …)" if tensors else ""
        raise CaptureError(f"the model returns {_listed(answer)}{how}")
    return cast(Tensor, chosen)


def _item(value: object, part: str) -> object | None:
    items = _items(value) or {}
    if part in items:
        return items[part]
    present = [item for item in items.values() if item is not None]
    try:
        return present[int(part)]
    except (ValueError, IndexError):
        return None


def _items(value: object) -> dict[str, object] | None:
    """Name the parts of a container; None for whatever is no container."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        return {str(name): item for name, item in zip(names, value, strict=True)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def _tensors(value: object, path: str = "") -> dict[str, Tensor]:
    """List the tensors of an answer by path, in order."""
    if isinstance(value, Tensor):
        return {path: value}
    found: dict[str, Tensor] = {}
    for name, item in (_items(value) or {}).items():
        found |= _tensors(item, f"{path}.{name}" if path else name)
    return found


def _listed(answer: object) -> str:
    if isinstance(answer, Tensor):
        return "one tensor, so it needs no name"
    tensors = _tensors(answer)
    if not tensors:
        return f"a {type(answer).__name__} without tensors; logits of shape (N, classes) are needed"
    shown = ", ".join(f"'{path}' {tuple(t.shape)}" for path, t in list(tensors.items())[:12])
    more = f" and {len(tensors) - 12} more" if len(tensors) > 12 else ""
    return f"{len(tensors)} tensors: {shown}{more}"

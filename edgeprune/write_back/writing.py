"""Write a cut back onto a module of the user's own class.

The captured graph is the model that was proven; a class can express only some
cuts. Tensors are copied by name, attributes follow the graph's constants, and the
result is compared with the graph. Invariant: what does not compute the same is
refused, never returned.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torch import nn

from edgeprune.capture import Captured, capture
from edgeprune.errors import CutError
from edgeprune.outputs import Output
from edgeprune.tensors import state
from edgeprune.untouched import forget
from edgeprune.write_back.attributes import Kind, Way, compute_own_scale, follow_shapes, kinds
from edgeprune.write_back.constants import Constant, constants, own_scales
from edgeprune.write_back.equality import Difference, Judge
from edgeprune.write_back.tensors import copy_of, write_tensors

TRIALS: Final = 100
SHOWN: Final = 3


def to_module(slim: Captured, model: nn.Module, *, output: Output = None) -> nn.Module:
    """Return the user's module with the cut's tensors and widths, proven equal to the cut.

    Its parameters, buffers and attributes are those of the cut; what the forward
    pass does not use stays as it is in ``model``. It is equal to 1e-4 relative on the
    sample, on noise at another batch size, and with other weights on both sides
    (unless those give logits that are not finite).
    Fused attention whose scale the class derives from the new size is switched to
    the class's own (``fused_attn`` of timm).

    Args:
        slim: a cut model, recovered or not.
        model: the module that was captured, before any cut; its weights do not
            matter. It is not changed.
        output: as for ``capture``.

    Raises:
        CutError: the class cannot express the cut (the first module that fails or
            answers otherwise is named, and why), or ``model`` is another model.
        CaptureError: ``model`` cannot be captured.
    """
    dense = capture(model, slim.sample, output=output)
    both = constants(dense, slim)
    judge = Judge(dense=dense, model=model, slim=slim, output=output)
    candidate = copy_of(model)
    known = kinds(candidate, both)
    write_tensors(candidate, state(slim.module))
    compute_own_scale(candidate, own_scales(dense, slim))
    difference = _search(candidate, known, judge)
    if difference is not None:
        raise CutError(_refusal(candidate, difference, both))
    for path, module in candidate.named_modules():
        module.training = model.get_submodule(path).training
    return candidate


def _search(candidate: nn.Module, known: Sequence[Kind], judge: Judge) -> Difference | None:
    """Set attributes until the candidate computes what it should; return how far it came."""
    remaining = {kind: kind.ways() for kind in known}
    for kind, ways in remaining.items():
        kind.apply(candidate, next(ways))
    order = {path: index for index, (path, _) in enumerate(candidate.named_modules())}

    def progress(difference: Difference) -> tuple[bool, int]:
        return not difference.error, order[difference.path]

    furthest: Difference | None = None
    for _ in range(TRIALS):
        follow_shapes(candidate)
        forget(candidate)
        difference = judge.difference(candidate)
        if difference is None:
            return None
        if furthest is None or progress(difference) > progress(furthest):
            furthest = difference
        if not _try_another(candidate, remaining, difference.path):
            break
    return furthest


def _try_another(candidate: nn.Module, remaining: dict[Kind, Iterator[Way]], path: str) -> bool:
    """Give the module that differs, or one that holds it, its next likeliest attributes.

    What was tried in vain within that one is tried again: it may have got wrong inputs.
    """
    exhausted: list[Kind] = []
    for place in _upwards(path):
        for kind in [kind for kind in remaining if place in kind.paths]:
            way = next(remaining[kind], None)
            if way is not None:
                kind.apply(candidate, way)
                for inner in exhausted:
                    remaining[inner] = inner.ways()
                    inner.apply(candidate, next(remaining[inner]))
                return True
            exhausted.append(kind)
    return False


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _refusal(
    model: nn.Module, difference: Difference, both: Mapping[str, Sequence[Constant]]
) -> str:
    path, kind = difference.path, type(model.get_submodule(difference.path)).__name__
    where = f"'{path}' ({kind})" if path else "its own forward"
    seen = f"{where} fails ({difference.error})"
    if not difference.error:
        first = f", first in the output of {where}" if path else ""
        seen = f"it gives other logits, by {difference.relative:.1e} relative{first}"
    return (
        f"{type(model).__name__} cannot express this cut: {seen}{_needed(path, both)}; "
        "use slim.module, an ordinary trainable module, or keep these channels whole"
    )


def _needed(path: str, both: Mapping[str, Sequence[Constant]]) -> str:
    """Name the numbers that the code would have to come to, there or in what holds it."""
    for place in _upwards(path):
        changed = [c for c in both.get(place, ()) if c.written and c.changed]
        changed.sort(key=lambda constant: constant.dense != (None,))
        if changed:
            shown = ", ".join(list(dict.fromkeys(map(str, changed)))[:SHOWN])
            return f"; the code{f' of {place!r}' if place else ''} would have to come to {shown}"
    return ""

"""Numbers that a module keeps as attributes, and what they have to become.

Code computes with ``self.num_heads`` where the graph has a constant. An attribute
follows the constants of its module that had its value: in every module of the
same class at the same place, because one value alone may be a coincidence. Where
several places remain there are several ways, and only running the module tells.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from types import CodeType
from typing import Any, Final, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgeprune.write_back.constants import Constant, Number

MOST: Final = 24  # ways to try for one kind of module
OPTIONS: Final = 3  # values to try for one attribute
WRITTEN: Final = 100  # what a constant counts, where a size that comes out counts 1
FUSED: Final = "fused_attn"  # timm's switch between fused attention and its own, with its own scale
SPATIAL: Final = frozenset(
    {"kernel_size", "stride", "padding", "dilation", "output_padding", "training"}
)

PROJECTIONS: Final = ("q_proj_weight", "k_proj_weight", "v_proj_weight")

Sizes = Mapping[str, object]
Place = tuple[int, str, int]
Values = tuple[Any, ...]  # one value per module of a kind
Way = Mapping[str, Values]  # by attribute


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """Modules of one class whose code left the same operators.

    Attributes:
        paths: where they are.
        choices: for each attribute what it may become, likeliest first; the dense
            values are among them.
    """

    paths: tuple[str, ...]
    choices: Mapping[str, tuple[Values, ...]]

    def ways(self) -> Iterator[Way]:
        """Yield assignments of all attributes, those with the likeliest values first."""
        ranks = product(*(range(len(found)) for found in self.choices.values()))
        for chosen in islice(sorted(ranks, key=sum), MOST):
            pairs = zip(self.choices.items(), chosen, strict=True)
            yield {name: found[rank] for (name, found), rank in pairs}

    def apply(self, model: nn.Module, way: Way) -> None:
        """Set the attributes of every module of this kind."""
        for attribute, values in way.items():
            for path, value in zip(self.paths, values, strict=True):
                setattr(model.get_submodule(path), attribute, value)


def kinds(model: nn.Module, constants: Mapping[str, list[Constant]]) -> tuple[Kind, ...]:
    """Find the attributes that may follow the cut, in a model of dense attributes."""
    together: dict[Any, list[str]] = {}
    nearest: dict[str, list[Constant]] = {}
    # The graph may know a module by another path than its first.
    every = model.named_modules(remove_duplicate=False)
    shared = {id(module): constants[path] for path, module in every if path in constants}
    for path, module in model.named_modules():
        nearest[path] = shared.get(id(module)) or nearest.get(path.rpartition(".")[0], [])
        key = type(module), tuple((c.operator, c.place) for c in nearest[path])
        if nearest[path]:
            together.setdefault(key, []).append(path)
    found = (_kind(model, paths, [nearest[path] for path in paths]) for paths in together.values())
    return tuple(kind for kind in found if kind.choices)


def follow_shapes(model: nn.Module) -> None:
    """Set the sizes that torch's own modules keep, from their tensors."""
    for module in model.modules():
        sizes = next((read(module) for types, read in SIZES if isinstance(module, types)), {})
        for name, value in sizes.items():
            setattr(module, name, value)


def compute_own_scale(model: nn.Module, paths: frozenset[str]) -> None:
    """Let attention at these paths multiply by the scale that its module keeps."""
    for path in paths:
        module = model.get_submodule(path)
        if getattr(module, FUSED, False) is True:
            setattr(module, FUSED, False)


def _kind(model: nn.Module, paths: Sequence[str], several: Sequence[list[Constant]]) -> Kind:
    modules = [vars(model.get_submodule(path)) for path in paths]
    read = _read_in_forward(model.get_submodule(paths[0]))
    choices: dict[str, tuple[Values, ...]] = {}
    for name, value in modules[0].items():
        if name in SPATIAL or name not in read:
            continue
        values = tuple(module.get(name) for module in modules)
        if all(_is_int(v) for v in values):
            found = _numbers(name, values, several)
        elif isinstance(value, tuple | list) and all(_is_ints(v, len(value)) for v in values):
            found = _several_numbers(name, values, several)
        else:
            continue
        if found != [values]:
            choices[name] = tuple(found)
    return Kind(paths=tuple(paths), choices=choices)


def _numbers(name: str, values: Values, several: Sequence[list[Constant]]) -> list[Values]:
    """List what whole numbers may become, by how many places say so.

    Sizes that come out are weak evidence: where all that is written stays, so may the number.
    """
    common = set.intersection(
        *(_places(v, found) for v, found in zip(values, several, strict=True))
    )
    votes: dict[Values, int] = {values: 0}
    for index, (_, argument, item) in _numbered(several[0], common):
        after = tuple(found[index].slim[item] for found in several)
        if argument == name:  # as torch's layers name what they hand to their operator
            return [after]
        weight = WRITTEN if several[0][index].written else 1
        if after != values:
            votes[after] = votes.get(after, 0) + weight
        elif weight == WRITTEN:
            votes[values] = WRITTEN - 1
    return sorted(votes, key=lambda after: -votes[after])[:OPTIONS]


def _places(value: Number, found: list[Constant]) -> set[Place]:
    return {(*c.place, item) for c in found for item, n in enumerate(c.dense) if n == value}


def _numbered(found: list[Constant], places: set[Place]) -> Iterator[tuple[int, Place]]:
    for index, constant in enumerate(found):
        for item in range(len(constant.dense)):
            if (*constant.place, item) in places:
                yield index, (*constant.place, item)


def _several_numbers(name: str, values: Values, several: Sequence[list[Constant]]) -> list[Values]:
    """List what sequences may become: as a whole, else number by number."""
    dense = tuple(map(tuple, values))
    matching = [
        index
        for index in range(len(several[0]))
        if all(d == found[index].dense for d, found in zip(dense, several, strict=True))
    ]
    whole = [tuple(found[index].slim for found in several) for index in matching]
    columns = [_numbers(name, column, several)[0] for column in zip(*dense, strict=True)]
    options = [after for after in (*whole, tuple(zip(*columns, strict=True))) if after != dense]
    options = [*dict.fromkeys(options)][: OPTIONS - 1]
    if any(several[0][index].argument == name for index in matching):
        options = options[:1] or [dense]
    else:
        options.append(dense)
    return [tuple(type(v)(row) for v, row in zip(values, after, strict=True)) for after in options]


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ints(value: object, length: int) -> bool:
    sequence = value if isinstance(value, tuple | list) else ()
    return len(sequence) == length > 0 and all(_is_int(v) for v in sequence)


def _read_in_forward(module: nn.Module) -> frozenset[str]:
    """Return every name that ``forward``, and what it calls of its own class, looks up.

    What other code reads, a new head's width for one, may have another meaning.
    """
    found: set[str] = set()
    waiting = ["forward"]  # which may be another method under that name, set on the instance
    while waiting:
        new = _names(_code(inspect.getattr_static(module, waiting.pop(), None))) - found
        found |= new
        waiting += new
    return frozenset(found)


def _code(member: Any) -> CodeType | None:  # noqa: ANN401 - whatever a class holds
    function = member.fget if isinstance(member, property) else member
    function = getattr(function, "__func__", function)
    return getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None


def _names(code: CodeType | None) -> set[str]:
    if code is None:
        return set()
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def _convolution(module: _ConvNd) -> Sizes:
    outside, inside = module.weight.shape[:2]
    if module.transposed:
        return {"in_channels": outside, "out_channels": inside * module.groups}
    return {"in_channels": inside * module.groups, "out_channels": outside}


def _batch_norm(module: _NormBase) -> Sizes:
    tensor = module.running_mean if module.weight is None else module.weight
    return {"num_features": len(tensor)} if isinstance(tensor, Tensor) else {}


def _layer_norm(module: nn.LayerNorm | nn.RMSNorm) -> Sizes:
    weight = module.weight if module.elementwise_affine else None
    return {} if weight is None else {"normalized_shape": tuple(weight.shape)}


def _attention(module: nn.MultiheadAttention) -> Sizes:
    """Read the sizes of torch's attention: its heads always share the whole width."""
    names = ("in_proj_weight",) * 3 if module._qkv_same_embed_dim else PROJECTIONS
    width, key, value = (module.get_parameter(name).shape[1] for name in names)
    return {"embed_dim": width, "kdim": key, "vdim": value, "head_dim": width // module.num_heads}


SIZES: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Sizes]], ...]] = (
    (_ConvNd, _convolution),
    (_NormBase, _batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.MultiheadAttention, _attention),
    (nn.GroupNorm, lambda m: {"num_channels": len(m.weight)} if m.affine else {}),
    (nn.Linear, lambda m: dict(zip(("out_features", "in_features"), m.weight.shape, strict=True))),
    (nn.Embedding, lambda m: {"num_embeddings": len(m.weight), "embedding_dim": m.weight.shape[1]}),
    (nn.PReLU, lambda m: {"num_parameters": m.weight.numel()}),
)

__all__ = ["Kind", "compute_own_scale", "follow_shapes", "kinds"]

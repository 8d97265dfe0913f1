"""A network's operators as its file states them, whatever the file's format.

Operators whose inputs are all constant are folded by every runtime before the
first image, so they count as constants: a weight in int8 with its scale is one
weight. Invariant: sizes are those of one batch, with nothing left symbolic.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value in the graph.

    ``shape`` is None where the file leaves it open. ``weight`` says whether numbers
    of its type can be learned: of any float type, or at most 8 bits wide.
    """

    shape: Shape | None
    bits: int
    weight: bool

    @property
    def size(self) -> int:
        """How many numbers it holds, or 0 where that is not known."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return -(-self.size * self.bits // 8)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator; tensors by name, and "" for an optional input that is absent."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Operators in an order in which they can run, and every tensor they name.

    ``stored`` are the tensors whose values the file holds, ``names`` what these are
    called where the file numbers them.
    """

    batch: int
    operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    stored: frozenset[str]
    names: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def constants(self) -> Mapping[str, frozenset[str]]:
        """Every tensor that does not depend on the images → the stored ones it is made of."""
        found = {name: frozenset({name}) for name in self.stored}
        for operator in self.operators:
            inputs = [name for name in operator.inputs if name]
            if inputs and all(name in found for name in inputs):
                made_of = frozenset().union(*(found[name] for name in inputs))
                found.update(dict.fromkeys(operator.outputs, made_of))
        return found

    @property
    def layers(self) -> Iterator[Operator]:
        """The operators that are left after folding."""
        return (o for o in self.operators if not self.constants.keys() >= set(o.outputs))

    def weight_of(self, name: str) -> str | None:
        """Return the stored tensor that a constant mostly consists of, or None for no weight."""
        leaves = [leaf for leaf in self.constants.get(name, ()) if self.tensors[leaf].weight]
        return max(leaves, key=lambda leaf: (self.tensors[leaf].size, leaf), default=None)

    def params_of(self, name: str) -> int:
        """Count the learned numbers in a constant; a scalar is taken for part of a formula.

        Scales beside quantised weights are not counted again, nor are copies that
        broadcasting makes.
        """
        weight = self.weight_of(name)
        size = 0 if weight is None else min(self.tensors[weight].size, self.tensors[name].size)
        return size if size > 1 else 0

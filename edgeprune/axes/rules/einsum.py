"""Sums of products named by letters.

A letter is one axis in every operand that has it. One that the result has not
is contracted, and read once, at an operand that varies with the images.
"""

from collections import Counter
from itertools import pairwise
from typing import Final

from torch import fx

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis

ELLIPSIS: Final = "..."


@rule("aten.einsum")
def einsum(op: Op, equation: str, operands: list[Axes], *rest: object) -> Axes:
    """Unite axes of one letter; those that leave are read."""
    terms, result = _terms(equation, [len(operand) for operand in operands])
    if any(len(set(term)) < len(term) for term in terms):
        for operand in operands:
            op.lock(*operand, why="a diagonal")
        return tuple(op.stuck(size, "a diagonal") for size in op.shape)
    letters = {
        letter: _united(op, _having(letter, terms, operands))
        for letter in dict.fromkeys(letter for term in terms for letter in term)
    }
    for letter in letters:
        if letter not in result:
            _read(op, letter, terms, operands)
    _mark(op, terms, result, letters)
    op.costs(1, *letters.values())
    return tuple(letters[letter] for letter in result)


def _terms(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Return the letters of each operand and of the result; an ellipsis becomes numbers."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = [_spelt_out(term, rank) for term, rank in zip(inputs.split(","), ranks, strict=True)]
    widest = max((t for t in terms), key=lambda t: sum(letter.isdigit() for letter in t))
    dots = [letter for letter in widest if letter.isdigit()]
    if arrow:
        before, has_dots, after = output.partition(ELLIPSIS)
        return terms, [*before, *(dots if has_dots else []), *after]
    counts = Counter(letter for term in terms for letter in term if not letter.isdigit())
    return terms, [*dots, *sorted(letter for letter, count in counts.items() if count == 1)]


def _spelt_out(term: str, rank: int) -> list[str]:
    """Name the axes that an ellipsis stands for by their place from the right."""
    before, has_dots, after = term.partition(ELLIPSIS)
    missing = rank - len(before) - len(after) if has_dots else 0
    return [*before, *(str(place) for place in reversed(range(missing))), *after]


def _having(letter: str, terms: list[list[str]], operands: list[Axes]) -> list[Axis]:
    pairs = zip(terms, operands, strict=True)
    return [axes[term.index(letter)] for term, axes in pairs if letter in term]


def _united(op: Op, axes: list[Axis]) -> Axis:
    """Unite the axes of one letter; one of size 1 that carries a unit cannot stretch."""
    size = max(axis.size for axis in axes)
    op.lock(*(axis for axis in axes if axis.size != size), why="broadcast from size 1")
    full = [axis for axis in axes if axis.size == size]
    for a, b in pairwise(full):
        op.unify(a, b)
    return full[0]


def _read(op: Op, letter: str, terms: list[list[str]], operands: list[Axes]) -> None:
    having = [item for item, term in enumerate(terms) if letter in term]
    varying = [item for item in having if _varies(op, item)]
    item = (varying or having)[0]
    dim = terms[item].index(letter)
    op.reads("tensors", dim, operands[item][dim], item=item)


def _mark(op: Op, terms: list[list[str]], result: list[str], letters: dict[str, Axis]) -> None:
    """Mark heads and head dimensions where two values that vary meet."""
    if sum(_varies(op, item) for item in range(len(terms))) < 2:
        return
    for letter, axis in letters.items():
        if letter not in result:
            op.mark("head_dim", axis)
        elif all(letter in term for term in terms):
            op.mark("heads", axis)


def _varies(op: Op, item: int) -> bool:
    """Say whether one of the operands comes from the images."""
    pending: list[fx.Node] = [op.arguments["tensors"][item]]
    seen = set(pending)
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return True
        new = set(node.all_input_nodes) - seen
        seen |= new
        pending += new
    return False


__all__ = ["einsum"]

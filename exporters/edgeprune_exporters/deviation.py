"""Where an artifact first leaves the values of the model it was made from.

Values keep their names from the model to the file. A value that is right clears
everything that it is computed from, a wrong one clears everything else: as
``git bisect`` does over merges, each comparison halves what is left, and ends at
a wrong value that is computed from right ones. One value is held at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from edgeprune_exporters.model import Exportable
from edgeprune_exporters.parity import Array, Batch, Limit, ParityProof, distance
from edgeprune_exporters.probes import Probe, open_probe
from edgeprune_exporters.tolerances import Roundable, is_wrong


@runtime_checkable
class Inspectable(Protocol):
    """A model that knows its values' names, and what made them."""

    @property
    def value_names(self) -> frozenset[str]:
        """Names of the values that ``values`` can return."""
        ...

    def place(self, name: str, known: frozenset[str]) -> str:
        """Name the modules that make a value out of values that are known; empty if unknown."""
        ...


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far a value is, relative to the largest of its tensor, and whether that is too far."""

    relative: float
    wrong: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model and an artifact, on the same images.

    Attributes:
        model: gives the values wanted.
        probe: gives those to be judged.
        images: what both run on, (N, C, H, W).
        limit: how far a value may be, as the logits.
    """

    model: Exportable
    probe: Probe
    images: Array
    limit: Limit

    def error(self, name: str) -> Error | None:
        """Return how far a value is; None where one side has none like it."""
        wanted = self.model.values(self.images, [name]).get(name)
        if wanted is None:
            return None
        actual = self.probe.read(self.images, [name]).get(name)
        if actual is None or actual.shape != wanted.shape:
            return None
        actual = actual.astype(np.float32)
        rounded = None
        if isinstance(self.model, Roundable) and self.limit.precision != "fp32":
            precision = self.limit.precision
            rounded = self.model.rounded_values(self.images, [name], precision)[name]
        return Error(
            relative=distance(actual, wanted)[1],
            wrong=is_wrong(actual, wanted, rounded=rounded, limit=self.limit),
        )


def first_deviation(
    path: Path | None, model: Exportable, batches: Sequence[Batch], proof: ParityProof
) -> str | None:
    """Say in words which layer of a failed artifact deviates first, or why none can be named.

    Args:
        path: the artifact; None if nobody knows where it is.
        model: what it was made from.
        batches: what the proof was made with.
        proof: that failed.
    """
    if path is None:
        return None
    images = _images(batches, proof)
    try:
        comparison = Comparison(
            model=model, probe=open_probe(path), images=images, limit=proof.limit
        )
        return _words(comparison, proof.max_rel)
    except Exception as error:  # the proof has failed already: that must be told in any case
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        return f"no layer can be named: {reason}"


def _images(batches: Sequence[Batch], proof: ParityProof) -> Array:
    """Return the smallest batch that fails, since values are as large as the batch.

    Noise shows between images only: for it, the largest batch is taken.
    """
    failed = [
        batch.images
        for batch, parity in zip(batches, proof.batches, strict=True)
        if parity.max_rel > proof.tolerance
    ]
    return failed[0] if failed and proof.limit.measure == "max_rel" else batches[-1].images


def _words(comparison: Comparison, at_the_end: float) -> str:
    values, model = comparison.probe.values, comparison.model
    known = frozenset(values)
    if isinstance(model, Inspectable):
        known &= model.value_names
    *_, logits = values
    suspects = [name for name in values if name in known and name != logits]
    if not suspects:
        return "no layer can be named: the file and the model have no values in common"
    name, error = bisect(comparison, suspects, logits)
    operator = values[name].operator
    place = model.place(name, known) if isinstance(model, Inspectable) else ""
    return (
        f"it first deviates at '{name}' ({operator}{f', in {place}' if place else ''}): "
        f"{at_the_end if error is None else error:.1e} relative"
    )


def bisect(comparison: Comparison, suspects: Sequence[str], wrong: str) -> tuple[str, float | None]:
    """Return the first wrong value with its error, None for the one given as wrong.

    Args:
        comparison: judges a value.
        suspects: values that can be compared.
        wrong: a value that is known to be wrong.
    """
    before = ancestors(comparison.probe, suspects)
    left, found, error = before[wrong], wrong, None
    while left:
        name = _middle(left, before, suspects)
        itself = 1 << suspects.index(name)
        measured = comparison.error(name)
        if measured is None:
            left &= ~itself
        elif measured.wrong:
            found, error, left = name, measured.relative, left & before[name]
        else:
            left &= ~(before[name] | itself)
    return found, error


def ancestors(probe: Probe, suspects: Sequence[str]) -> dict[str, int]:
    """Return for each value which suspects it is computed from, as bits by their position."""
    bits = {name: 1 << position for position, name in enumerate(suspects)}
    before: dict[str, int] = {}
    for name, value in probe.values.items():
        before[name] = 0
        for source in value.inputs:
            before[name] |= before.get(source, 0) | bits.get(source, 0)
    return before


def _middle(left: int, before: dict[str, int], suspects: Sequence[str]) -> str:
    """Return the suspect whose verdict leaves least, whatever it is."""
    others = left.bit_count() - 1

    def rest(name: str) -> int:
        if_wrong = (before[name] & left).bit_count()
        return max(if_wrong, others - if_wrong)

    return min((name for at, name in enumerate(suspects) if left >> at & 1), key=rest)

"""Units against a model small enough to try every removal."""

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pytest

from edgeprune.axes.units import (
    NONE,
    Axis,
    Column,
    Units,
    concatenate,
    kept_mask,
    merge,
    take,
)

Pattern = tuple[bool, ...]
Step = Callable[[Units], None]


def removable(units: Units) -> Iterator[np.ndarray]:
    """Yield every choice of up to two root units to remove, as a mask."""
    total, roots = units.total, units.roots().tolist()
    for count in range(3):
        for chosen in combinations(roots, count):
            removed = np.zeros(total, np.bool_)
            removed[list(chosen)] = True
            yield removed


def gone(units: Units, axis: Axis, removed: np.ndarray) -> Pattern:
    return tuple((~kept_mask(units.resolve(axis), removed)).tolist())


def product(units: Units, *sizes: int) -> Axis:
    return merge([units.fresh_axis(size) for size in sizes])


def holes(units: Units, size: int, rng: np.random.Generator, columns: int = 1) -> Axis:
    """Make an axis of random columns, some units repeated, some positions without."""
    made: list[Column] = []
    for _ in range(columns):
        fresh = units.fresh(size)
        column = fresh[np.sort(rng.integers(0, size, size))]
        made.append(np.where(rng.random(size) < 0.2, NONE, column))
    return Axis(size, tuple(made))


def pair(  # noqa: PLR0911 - one return per kind
    kind: str, units: Units, rng: np.random.Generator
) -> tuple[Axis, Axis]:
    match kind:
        case "single":
            return units.fresh_axis(6), units.fresh_axis(6)
        case "product":
            return units.fresh_axis(6), product(units, 2, 3)
        case "products":
            return product(units, 2, 3), product(units, 2, 3)
        case "crossed":
            return product(units, 2, 3), product(units, 3, 2)
        case "triple":
            return units.fresh_axis(8), product(units, 2, 2, 2)
        case "holes":
            return holes(units, 6, rng), holes(units, 6, rng)
        case "mixed":
            return holes(units, 6, rng, 2), holes(units, 6, rng, 1)
        case "several":
            return holes(units, 6, rng, 2), holes(units, 6, rng, 2)
        case "shared":
            own = units.fresh_axis(6)
            return own, Axis(6, (*own.columns, *units.fresh_axis(6).columns))
        case "repeated":
            column = np.repeat(units.fresh(3), 2)
            return Axis(6, (column,)), product(units, 3, 2)
        case "concatenated":
            parts = [units.fresh_axis(2), product(units, 2, 2)]
            return concatenate(parts), units.fresh_axis(6)
        case _:
            return Axis(6), units.fresh_axis(6)


KINDS = [
    "single", "product", "products", "crossed", "triple", "holes", "mixed", "several", "shared",
    "repeated", "concatenated", "frozen",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_united_axes_lose_the_same_positions_whatever_is_removed(kind: str, seed: int) -> None:
    units = Units()
    a, b = pair(kind, units, np.random.default_rng(seed))
    units.unify(a, b, "because")
    for removed in removable(units):
        assert gone(units, a, removed) == gone(units, b, removed)


@pytest.mark.parametrize("kind", ["single", "product", "products", "triple", "repeated"])
def test_axes_that_fit_each_other_are_not_locked(kind: str) -> None:
    units = Units()
    a, b = pair(kind, units, np.random.default_rng(0))
    units.unify(a, b, "because")
    assert not units.resolve(a).frozen
    assert not units.reasons_of(a)


@pytest.mark.parametrize("seed", range(8))
def test_what_was_once_united_stays_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = Units()
    pool = [a for kind in KINDS for a in pair(kind, units, rng) if a.size == 6]
    united: list[tuple[Axis, Axis]] = []
    for _ in range(5):
        a, b = (pool[i] for i in rng.choice(len(pool), 2, replace=False))
        units.unify(a, b, "because")
        united.append((a, b))
    roots = units.roots()
    for _ in range(100):
        removed = np.zeros(units.total, np.bool_)
        removed[rng.permutation(roots)[: rng.integers(1, 12)]] = True
        for a, b in united:
            assert gone(units, a, removed) == gone(units, b, removed)


def test_a_substituted_unit_goes_when_any_of_what_replaced_it_goes() -> None:
    units = Units()
    flat = units.fresh_axis(6)
    rows, columns = units.fresh_axis(2), units.fresh_axis(3)
    units.unify(flat, merge([rows, columns]), "because")
    removed = np.zeros(units.total, np.bool_)
    removed[rows.columns[0][1]] = True
    assert gone(units, flat, removed) == (False, False, False, True, True, True)
    removed[columns.columns[0][0]] = True
    assert gone(units, flat, removed) == (True, False, False, True, True, True)


def test_uniting_is_transitive() -> None:
    units = Units()
    a, b, c, d = (units.fresh_axis(3) for _ in range(4))
    units.unify(a, b, "because")
    units.unify(c, d, "because")
    units.unify(d, a, "because")
    roots = {tuple(units.resolve(axis).columns[0].tolist()) for axis in (a, b, c, d)}
    assert len(roots) == 1


def test_a_locked_axis_loses_nothing_and_says_why() -> None:
    units = Units()
    a, b = units.fresh_axis(3), units.fresh_axis(3)
    units.unify(a, b, "because")
    units.lock(a, "the reason")
    assert units.resolve(b).frozen
    assert units.reasons_of(b) == {"the reason"}


def test_what_a_frozen_axis_meets_is_frozen_by_the_same_cause() -> None:
    units = Units()
    a, b = units.fresh_axis(3), units.fresh_axis(3)
    units.unify(a, units.stuck_axis(3, "a constant"), "first meeting")
    units.unify(a, b, "second meeting")
    assert units.resolve(b).frozen
    assert units.reasons_of(b) == {"a constant"}


def test_what_tokens_meet_is_frozen_without_a_cause() -> None:
    units = Units()
    a = units.fresh_axis(3)
    units.unify(a, Axis(3), "meeting")
    assert units.resolve(a).frozen
    assert not units.reasons_of(a)


def test_a_cause_survives_moving_about() -> None:
    units = Units()
    stuck = units.stuck_axis(2, "the cause")
    joined = units.join([units.fresh_axis(2), stuck])
    rows, columns = units.split(joined, (2, 2), "split")
    for axis in (take(joined, slice(2, 4)), merge([Axis(3), stuck]), columns):
        other = units.fresh_axis(axis.size)
        units.unify(axis, other, "meeting")
        assert units.reasons_of(other) == {"the cause"}
    assert units.reasons_of(rows) >= {"the cause"}


def test_axes_that_share_units_differently_name_their_meeting() -> None:
    units = Units()
    a, b = product(units, 2, 3), product(units, 3, 2)
    rest = units.fresh_axis(6)
    units.unify(
        Axis(6, (*a.columns, *b.columns)), Axis(6, (*a.columns, *rest.columns, *b.columns)), "here"
    )
    assert units.reasons_of(rest) == {"here"}


def test_a_position_without_unit_locks_the_unit_that_faces_it() -> None:
    units = Units()
    a, b = units.fresh_axis(3), units.fresh_axis(3)
    holed = Axis(3, (np.where(np.arange(3) == 1, NONE, b.columns[0]),))
    units.unify(a, holed, "because")
    assert (units.resolve(a).columns[0] >= 0).tolist() == [True, False, True]


@pytest.mark.parametrize("sizes", [(6,), (2, 3), (3, 2), (1, 6), (2, 1, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_split_axis_merged_again_loses_the_same_positions(
    kind: str, sizes: tuple[int, ...]
) -> None:
    units = Units()
    _, axis = pair(kind, units, np.random.default_rng(0))
    if axis.size != int(np.prod(sizes)):
        pytest.skip("another size")
    parts = units.split(axis, sizes, "because")
    assert [part.size for part in parts] == list(sizes)
    for removed in removable(units):
        assert gone(units, axis, removed) == gone(units, merge(parts), removed)


def test_a_product_splits_into_its_factors_without_a_tie() -> None:
    units = Units()
    rows, columns = units.fresh_axis(2), units.fresh_axis(3)
    first, second = units.split(merge([rows, columns]), (2, 3), "because")
    assert np.array_equal(first.columns[0], rows.columns[0])
    assert np.array_equal(second.columns[0], columns.columns[0])


def test_a_product_goes_wherever_either_factor_goes() -> None:
    units = Units()
    rows, columns = units.fresh_axis(2), units.fresh_axis(2)
    removed = np.zeros(4, np.bool_)
    removed[[rows.columns[0][0], columns.columns[0][1]]] = True
    assert gone(units, merge([rows, columns]), removed) == (True, True, False, True)


def test_pieces_of_a_concatenation_lose_what_their_sources_lose() -> None:
    units = Units()
    parts = [units.fresh_axis(2), Axis(1), product(units, 2, 2)]
    whole = concatenate(parts)
    for removed in removable(units):
        expected = sum((gone(units, part, removed) for part in parts), ())
        assert gone(units, whole, removed) == expected
        assert gone(units, take(whole, slice(1, 4)), removed) == expected[1:4]
        assert gone(units, take(whole, slice(None, None, -1)), removed) == expected[::-1]


def test_a_single_position_carries_no_unit() -> None:
    assert Units().fresh_axis(1).frozen

"""Invariants I1 to I4 on random classifiers that nobody designed."""

from typing import Final

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings

from edgeprune.capture import capture
from edgeprune.cut import cut

from .graph_invariants import check_against_zeroed_weights, check_program
from .models import random_plan
from .random_graphs import Choice, Program, Step, build, images, programs, programs_around
from .random_parts import IMAGES, TOKENS

# The same programs on every machine and in every run; slow drawing is capture's, not hypothesis'.
HEALTH: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
REPRODUCIBLE: Final = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=HEALTH,
    print_blob=False,
)


BLOCKS: Final = [n for t in (IMAGES, TOKENS) for n in (*t.blocks, *t.joins) if n != "tokens"]


@pytest.mark.parametrize("block", BLOCKS)
def test_random_graphs_around_each_block_hold_the_invariants(block: str) -> None:
    # Drawn freely, a hundred graphs would leave out a third of all blocks.
    @settings(REPRODUCIBLE, max_examples=2)
    @given(programs_around(block))
    def check(program: Program) -> None:
        check_program(program)

    check()


@settings(REPRODUCIBLE, max_examples=12)
@given(programs(blocks=2, depth=2))
def test_random_graphs_hold_the_invariants(program: Program) -> None:
    check_program(program)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_thousands_of_random_graphs_hold_the_invariants(part: int) -> None:
    @seed(part)
    @settings(REPRODUCIBLE, max_examples=550)
    @given(programs(blocks=3, depth=2))
    def check(program: Program) -> None:
        check_program(program)

    check()


def alone(name: str, choice: Choice) -> Program:
    """Make a program of one block between a stem and a head."""
    if name in IMAGES.blocks:
        return Program(0, (Step(name, choice),), 0, 3)
    if name in TOKENS.blocks:
        return Program(0, (Step("tokens", choice, ((Step(name, choice),),)),), 0, 3)
    if name in TOKENS.joins:
        branch = (Step("mlp", choice),)
        inner = (Step(name, choice, (branch, branch)),)
        return Program(0, (Step("tokens", choice, (inner,)),), 0, 3)
    branch = (Step("bottleneck", choice),)
    return Program(0, (Step(name, choice, (branch, branch)),), 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(14))
@pytest.mark.parametrize("name", BLOCKS)
def test_every_form_of_every_block_holds_the_invariants(name: str, number: int) -> None:
    check_program(alone(name, Choice(number, number // 2, number // 3)))


def test_the_check_against_zeroed_weights_sees_channels_that_changed_places() -> None:
    model = build(alone("convolution", Choice()))
    dense = capture(model, images(2))
    slim = cut(dense, random_plan(dense))
    check_against_zeroed_weights(model, dense, slim)
    weight = slim.module.get_parameter("0.weight")
    with torch.no_grad():
        weight.copy_(weight.flip(0))
    with pytest.raises(AssertionError, match="differs from zeroed weights"):
        check_against_zeroed_weights(model, dense, slim)

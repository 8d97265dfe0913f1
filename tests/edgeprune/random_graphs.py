"""Random small classifiers: drawn programs, and the modules that they describe."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from . import (  # noqa: F401 - each fills the tables
    random_attention,
    random_images,
    random_joins,
    random_statistics,
    random_tokens,
)
from .random_parts import IMAGES, TOKENS, WIDTHS, Apply, Choice, Shape, Table, conv, shape_of

CLASSES: Final = 5
SIDE: Final = 6
MOST_CHANNELS: Final = 16


class Step(NamedTuple):
    """One block of a program, with the programs of its branches."""

    name: str
    choice: Choice
    branches: tuple[tuple["Step", ...], ...] = ()

    def __repr__(self) -> str:
        inner = f", {self.branches}" if self.branches else ""
        return f"Step({self.name!r}, Choice{tuple(self.choice)}{inner})"


class Program(NamedTuple):
    """A classifier: the width of its stem, its blocks, its head, and the seed of its weights."""

    width: int
    steps: tuple[Step, ...]
    head: int
    seed: int

    def names(self) -> frozenset[str]:
        """Return the names of all blocks, those in branches too."""
        return frozenset(_names(self.steps))

    @property
    def entangled(self) -> bool:
        """Whether a unit of weight 0 may have an influence: through a mean, norm or softmax."""
        return not self.names().isdisjoint(IMAGES.entangled | TOKENS.entangled)


def _names(steps: tuple[Step, ...]) -> Iterator[str]:
    for step in steps:
        yield step.name
        for branch in step.branches:
            yield from _names(branch)


def build(program: Program) -> nn.Module:
    """Build a classifier in evaluation mode, in float64, with weights that are all different.

    In double precision an error of a rule stands out from rounding by many
    orders of magnitude, however deep the network.
    """
    stem = conv(3, WIDTHS[program.width % len(WIDTHS)], 3)
    body = _stack(IMAGES, program.steps, tuple(shape_of(stem, (3, SIDE, SIDE))))
    shape = shape_of(body, shape_of(stem, (3, SIDE, SIDE)))
    model = nn.Sequential(stem, body, _head(shape, program.head)).double().eval()
    _fill(model, program.seed)
    return model


def images(count: int, seed: int = 0) -> Tensor:
    """Make noise (count, 3, SIDE, SIDE) in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def programs(*, blocks: int = 2, depth: int = 1) -> st.SearchStrategy[Program]:
    """Draw programs of so many blocks at the most, and branches within branches this deep."""
    seeds, heads = st.integers(0, 9), st.integers(0, 5)
    return st.builds(Program, st.integers(0, 4), _steps(blocks, depth), heads, seeds)


def programs_around(block: str, form: int | None = None) -> st.SearchStrategy[Program]:
    """Draw small programs that hold one block of images or tokens, in one form or in any."""
    table = TOKENS if block in TOKENS.blocks or block in TOKENS.joins else IMAGES
    first = st.integers(0, 11) if form is None else st.just(form)
    branches = st.tuples(*[_steps(1, 0, table)] * 2) if block in table.joins else st.just(())
    choices = st.builds(Choice, first, st.integers(0, 11), st.integers(0, 11))
    before, step, after = (
        _steps(1, 0, table),
        st.builds(Step, st.just(block), choices, branches),
        _steps(1, 0, table),
    )
    steps = st.tuples(before, step, after).map(lambda drawn: (*drawn[0], drawn[1], *drawn[2]))
    if table is TOKENS:
        steps = st.builds(Step, st.just("tokens"), CHOICES, st.tuples(steps)).map(lambda s: (s,))
    return st.builds(Program, st.integers(0, 4), steps, st.integers(0, 5), st.integers(0, 9))


CHOICES: Final = st.builds(Choice, *(st.integers(0, 11) for _ in range(3)))


def _steps(most: int, depth: int, table: Table = IMAGES) -> st.SearchStrategy[tuple[Step, ...]]:
    plain = st.builds(Step, st.sampled_from(list(table.blocks)), CHOICES, st.just(()))
    if depth == 0:
        return st.lists(plain, max_size=most).map(tuple)
    branch = _steps(2, depth - 1, table)
    joined = st.builds(
        Step,
        st.sampled_from([n for n in table.joins if n != "tokens"]),
        CHOICES,
        st.tuples(branch, branch),
    )
    kinds = [plain, joined]
    if table is IMAGES:
        inner = st.tuples(_steps(3, depth - 1, TOKENS))
        kinds.append(st.builds(Step, st.just("tokens"), CHOICES, inner))
    return st.lists(st.one_of(kinds), min_size=1, max_size=most).map(tuple)


def _stack(table: Table, steps: tuple[Step, ...], shape: Shape) -> nn.Sequential:
    """Build blocks one after the other; one that grows too wide is followed by a linear map."""
    blocks: list[nn.Module] = []
    for step in steps:
        for module in _modules(table, step, shape):
            blocks.append(module)
            shape = shape_of(module, shape)
    return nn.Sequential(*blocks)


def _modules(table: Table, step: Step, shape: Shape) -> Iterator[nn.Module]:
    if step.name in table.blocks:
        module = table.blocks[step.name](shape, step.choice)
    else:
        inner = [TOKENS if step.name == "tokens" else table for _ in step.branches]
        entry = _entry(step, shape)
        branches = [_stack(t, s, entry) for t, s in zip(inner, step.branches, strict=True)]
        module = table.joins[step.name](shape, step.choice, branches)
    yield module
    out = shape_of(module, shape)
    if table is TOKENS and out[-1] > MOST_CHANNELS:
        yield nn.Linear(out[-1], 6)
    if table is IMAGES and out[0] > MOST_CHANNELS:
        yield conv(out[0], 6)
    if table is IMAGES and out[1] > 2 * SIDE:
        yield nn.AvgPool2d(2)


def _entry(step: Step, shape: Shape) -> Shape:
    """Return the shape that the branches of a step begin with."""
    if step.name == "tokens":
        return (shape[1] * shape[2], shape[0])
    if step.name == "windows":
        return (shape[0] // 2, shape[1]) if shape[0] % 2 == 0 else shape
    if step.name == "halves":
        return (max(1, shape[0] // 2), *shape[1:])
    return shape


def _head(shape: Shape, number: int) -> nn.Module:
    c, volume = shape[0], shape[0] * shape[1] * shape[2]
    match number % 6:
        case 0 | 1:
            return Apply(lambda x, f: f(x.mean((2, 3))), nn.Linear(c, CLASSES))
        case 2:
            return Apply(lambda x, f: f(x.flatten(1)), nn.Linear(volume, CLASSES))
        case 3:
            layers = nn.Linear(c, 7), nn.BatchNorm1d(7), nn.GELU(), nn.Dropout(0.1)
            top = nn.Sequential(*layers, nn.Linear(7, CLASSES))
            return Apply(
                lambda x, f: f(F.adaptive_max_pool2d(x, 1).flatten(1)), top,
                free={"part0.0.weight": 7},
            )  # fmt: skip
        case 4:
            return Apply(lambda x, f: f(x).mean((2, 3)), conv(c, CLASSES))
        case _:
            return Apply(lambda x, f: f(x.permute(0, 2, 3, 1)).amax((1, 2)), nn.Linear(c, CLASSES))


def _fill(model: nn.Module, seed: int) -> None:
    """Give every parameter and statistic values of its own, none of them at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() < 2:
                tensor.copy_(0.8 + 0.4 * noise)
            else:
                tensor.copy_(1.3 * noise / max(1, tensor[0].numel()) ** 0.5)

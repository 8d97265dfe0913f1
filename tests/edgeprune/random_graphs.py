"""Random small classifiers: drawn programs, and the modules that they describe."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from .random_images import IMAGES, conv
from .random_parts import WIDTHS, Apply, Choice, Shape, Table
from .random_tokens import TOKENS

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
    body = _stack(IMAGES, program.steps, tuple(_shape(stem, (3, SIDE, SIDE))))
    shape = _shape(body, _shape(stem, (3, SIDE, SIDE)))
    model = nn.Sequential(stem, body, _head(shape, program.head)).double().eval()
    _fill(model, program.seed)
    return model


def images(count: int, seed: int = 0) -> Tensor:
    """Make noise (count, 3, SIDE, SIDE) in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def programs(*, blocks: int = 4) -> st.SearchStrategy[Program]:
    """Draw programs of so many blocks at the most."""
    seeds, heads = st.integers(0, 9), st.integers(0, 5)
    return st.builds(Program, st.integers(0, 4), _steps(blocks, depth=2), heads, seeds)


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
    return st.lists(st.one_of(kinds), min_size=depth, max_size=most).map(tuple)


def _shape(module: nn.Module, shape: Shape) -> Shape:
    """Return the shape, without samples, of what a module makes of this shape."""
    training = module.training
    with torch.no_grad():
        out = module.eval()(torch.zeros(2, *shape))
    module.train(training)
    return tuple(out.shape[1:])


def _stack(table: Table, steps: tuple[Step, ...], shape: Shape) -> nn.Sequential:
    """Build blocks one after the other; one that grows too wide is followed by a linear map."""
    blocks: list[nn.Module] = []
    for step in steps:
        for module in _modules(table, step, shape):
            blocks.append(module)
            shape = _shape(module, shape)
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
    out = _shape(module, shape)
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


def _fit(inner: nn.Module, before: Shape, wanted: Shape) -> nn.Module:
    """Let a branch end with the wanted channels and space."""
    out = _shape(inner, before)
    parts: list[nn.Module] = [inner]
    if out[0] != wanted[0]:
        parts.append(conv(out[0], wanted[0]))
    if out[1:] != wanted[1:]:
        parts.append(nn.AdaptiveAvgPool2d(wanted[1:]))
    return nn.Sequential(*parts) if len(parts) > 1 else inner


def _fit_tokens(inner: nn.Module, before: Shape, wanted: Shape) -> nn.Module:
    t, c = _shape(inner, before)
    parts: list[nn.Module] = [inner]
    if c != wanted[1]:
        parts.append(nn.Linear(c, wanted[1]))
    if t != wanted[0]:
        parts.append(
            Apply(lambda x, f: f(x.transpose(1, 2)).transpose(1, 2), nn.Linear(t, wanted[0]))
        )
    return nn.Sequential(*parts) if len(parts) > 1 else inner


def _in_place(x: Tensor, f: nn.Module) -> Tensor:
    y = f(x) * 1
    y += x
    return y


def _partly_in_place(x: Tensor, f: nn.Module) -> Tensor:
    y = 1 * x
    y[:, : max(1, x.shape[1] // 2)] += f(x)[:, : max(1, x.shape[1] // 2)]
    return y


SUMS: Final = (
    lambda x, f: x + f(x),
    _in_place,
    lambda x, f: x * f(x).sigmoid(),
    lambda x, f: x - 0.5 * f(x),
    lambda x, f: torch.maximum(x, f(x)),
    lambda x, f: torch.add(f(x), x, alpha=0.3),
    lambda x, f: torch.lerp(x, f(x), 0.3),
    lambda x, f: x / (1 + f(x).abs()),
    _partly_in_place,
    lambda x, f: torch.where(x > 0, x, f(x)),
    lambda x, f: torch.stack([x, f(x)]).mean(0),
)  # fmt: skip


@IMAGES.join()
def residual(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    return Apply(SUMS[n.a % len(SUMS)], _fit(branches[0], shape, shape))


@IMAGES.join()
def residual_of_means(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    fitted = _fit(branches[0], shape, (shape[0], 1, 1))
    return Apply(SUMS[(0, 2, 3)[n.a % 3]], fitted)


@IMAGES.join()
def concatenation(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    wanted = _shape(branches[1], shape) if n.a % 2 else shape
    first = _fit(branches[0], shape, (_shape(branches[0], shape)[0], *wanted[1:]))
    second = branches[1] if n.a % 2 else nn.Identity()
    if n.b % 2:
        return Apply(lambda x, f, g: torch.cat([f(x), g(x)], 1), first, second)
    return Apply(lambda x, f, g: torch.cat([g(x), f(x), g(x)[:, :2]], dim=-3), first, second)


@IMAGES.join()
def branches_joined(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    second = _fit(branches[1], shape, _shape(branches[0], shape))
    functions = (
        lambda x, f, g: f(x) + g(x),
        lambda x, f, g: f(x) * g(x),
        lambda x, f, g: torch.stack([f(x), g(x)], 1).sum(1),
        lambda x, f, g: torch.stack([f(x), g(x)], 2).flatten(1, 2),
        lambda x, f, g: torch.minimum(f(x), g(x)),
        lambda x, f, g: (
            (s := torch.stack([f(x), g(x)], 1)).mul(s.mean((3, 4), True).softmax(1)).sum(1)
        ),
    )
    return Apply(functions[n.a % len(functions)], branches[0], second)


@IMAGES.join()
def halves(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    half = max(1, shape[0] // 2)
    entry = (half, *shape[1:])
    second = _fit(
        branches[1], entry, (_shape(branches[1], entry)[0], *_shape(branches[0], entry)[1:])
    )
    return Apply(
        lambda x, f, g: torch.cat([f(x[:, :half]), g(x[:, -half:])], 1), branches[0], second
    )


@IMAGES.join()
def tokens(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    """Tokens of the pixels, and afterwards pixels again or one vector."""
    _, h, w = shape
    t, c = _shape(branches[0], (h * w, shape[0]))
    forth = (
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], h * w, -1),
        lambda x: x.reshape(x.shape[0], -1, h * w).permute(0, 2, 1),
        lambda x: x.movedim(1, 3).flatten(1, 2),
    )[n.a % 4]
    if t < h * w:
        back = (lambda y: y.mean(1)[:, :, None, None], lambda y: y[:, 0].view(-1, c, 1, 1))[n.b % 2]
    else:
        back = (
            lambda y: y[:, -h * w :].transpose(1, 2).reshape(-1, c, h, w),
            lambda y: y[:, : h * w].unflatten(1, (h, w)).permute(0, 3, 1, 2),
            lambda y: y.select(1, 0).unflatten(1, (c, 1, 1)),
        )[n.b % 3]
    return Apply(lambda x, f: back(f(forth(x))), branches[0])


@TOKENS.join()
def token_residual(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    return Apply(SUMS[n.a % len(SUMS)], _fit_tokens(branches[0], shape, shape))


@TOKENS.join()
def token_concatenation(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    first, second = (_fit_tokens(b, shape, shape) for b in branches)
    return Apply(lambda x, f, g: torch.cat([f(x), g(x)], 1 + n.a % 2), first, second)


@TOKENS.join()
def windows(shape: Shape, n: Choice, branches: list[nn.Module]) -> nn.Module:
    """A branch on halves of the tokens, which are samples meanwhile."""
    t, c = shape
    if t % 2:
        return branches[0]
    fitted = _fit_tokens(branches[0], (t // 2, c), (t // 2, c))
    if n.a % 2:
        return Apply(
            lambda x, f: f(x.view(-1, t // 2, 2, c).transpose(1, 2).reshape(-1, t // 2, c))
            .view(-1, 2, t // 2, c).transpose(1, 2).reshape(-1, t, c),
            fitted,
        )  # fmt: skip
    return Apply(lambda x, f: f(x.reshape(-1, t // 2, c)).reshape(-1, t, c), fitted)


def _head(shape: Shape, number: int) -> nn.Module:
    c, volume = shape[0], shape[0] * shape[1] * shape[2]
    match number % 6:
        case 0 | 1:
            return Apply(lambda x, f: f(x.mean((2, 3))), nn.Linear(c, CLASSES))
        case 2:
            return Apply(lambda x, f: f(x.flatten(1)), nn.Linear(volume, CLASSES))
        case 3:
            parts = nn.Linear(c, 7), nn.BatchNorm1d(7), nn.Dropout(0.1), nn.Linear(7, CLASSES)
            return Apply(
                lambda x, f, norm, drop, g: g(drop(F.gelu(norm(f(F.adaptive_max_pool2d(x, 1).flatten(1)))))),
                *parts, free={"part0.weight": 7},
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

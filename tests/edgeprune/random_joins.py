"""Blocks of random classifiers that are made of branches."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from .random_parts import IMAGES, TOKENS, Apply, Choice, Shape, conv, shape_of


def _fit(inner: nn.Module, before: Shape, wanted: Shape) -> nn.Module:
    """Let a branch end with the wanted channels and space."""
    out = shape_of(inner, before)
    parts: list[nn.Module] = [inner]
    if out[0] != wanted[0]:
        parts.append(conv(out[0], wanted[0]))
    if out[1:] != wanted[1:]:
        parts.append(nn.AdaptiveAvgPool2d(wanted[1:]))
    return nn.Sequential(*parts) if len(parts) > 1 else inner


def _fit_tokens(inner: nn.Module, before: Shape, wanted: Shape) -> nn.Module:
    t, c = shape_of(inner, before)
    parts: list[nn.Module] = [inner]
    if c != wanted[1]:
        parts.append(nn.Linear(c, wanted[1]))
    if t != wanted[0]:
        pool = nn.AdaptiveAvgPool1d(wanted[0])
        parts.append(Apply(lambda x, f: f(x.transpose(1, 2)).transpose(1, 2), pool))
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
def residual(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    return Apply(SUMS[n.a % len(SUMS)], _fit(branches[0], shape, shape))


@IMAGES.join()
def residual_of_means(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    fitted = _fit(branches[0], shape, (shape[0], 1, 1))
    return Apply(SUMS[(0, 2, 3)[n.a % 3]], fitted)


@IMAGES.join()
def concatenation(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    wanted = shape_of(branches[1], shape) if n.a % 2 else shape
    first = _fit(branches[0], shape, (shape_of(branches[0], shape)[0], *wanted[1:]))
    second = branches[1] if n.a % 2 else nn.Identity()
    if n.b % 2:
        return Apply(lambda x, f, g: torch.cat([f(x), g(x)], 1), first, second)
    return Apply(lambda x, f, g: torch.cat([g(x), f(x), g(x)[:, :2]], dim=-3), first, second)


@IMAGES.join()
def branches_joined(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    second = _fit(branches[1], shape, shape_of(branches[0], shape))
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
def halves(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    half = max(1, shape[0] // 2)
    entry = (half, *shape[1:])
    second = _fit(
        branches[1], entry, (shape_of(branches[1], entry)[0], *shape_of(branches[0], entry)[1:])
    )
    return Apply(
        lambda x, f, g: torch.cat([f(x[:, :half]), g(x[:, -half:])], 1), branches[0], second
    )


@IMAGES.join()
def tokens(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    """Tokens of the pixels, and afterwards pixels again or one vector."""
    _, h, w = shape
    t, c = shape_of(branches[0], (h * w, shape[0]))
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
def token_residual(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    return Apply(SUMS[n.a % len(SUMS)], _fit_tokens(branches[0], shape, shape))


@TOKENS.join()
def token_concatenation(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
    first, second = (_fit_tokens(b, shape, shape) for b in branches)
    return Apply(lambda x, f, g: torch.cat([f(x), g(x)], 1 + n.a % 2), first, second)


@TOKENS.join()
def windows(shape: Shape, n: Choice, branches: Sequence[nn.Module]) -> nn.Module:
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

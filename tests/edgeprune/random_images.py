"""Blocks of random classifiers that work on images, (N, C, H, W)."""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_parts import IMAGES, Apply, Choice, Shape, conv, parameter

ACTIVATIONS: Final = (
    F.gelu, F.silu, F.hardswish, torch.tanh, F.softplus, F.elu, torch.sigmoid, F.mish,
    lambda x: F.leaky_relu(x, 0.2), lambda x: F.leaky_relu(1 * x, 0.2, inplace=True),
    lambda x: x * F.relu6(x + 3) / 6, lambda x: x.clamp(-2, 2).abs(),
)  # fmt: skip


@IMAGES.block()
def convolution(shape: Shape, n: Choice) -> nn.Module:
    c, out, groups = shape[0], n.width(), n.divisor(shape[0], n.width())
    match n.c % 6:
        case 0 | 1:
            return nn.Conv2d(c, out, 3, padding=1, groups=groups, bias=n.c == 0)
        case 2:
            return nn.Conv2d(c, out, 1, groups=groups)
        case 3:
            return nn.Conv2d(c, out, 3, padding="same", groups=groups, dilation=2)
        case 4:
            return nn.Conv2d(c, out, 3, stride=2, padding=1, groups=groups)
        case _:
            return nn.Conv2d(c, c * (1 + n.a % 2), 3, padding=1, groups=c)


@IMAGES.block()
def activation(shape: Shape, n: Choice) -> nn.Module:
    if n.b % 6 == 5:
        return nn.PReLU(shape[0])
    return Apply(ACTIVATIONS[n.a % len(ACTIVATIONS)])


@IMAGES.block()
def batch_norm(shape: Shape, n: Choice) -> nn.Module:
    if n.a % 3 == 2 and shape[1] > 1:
        return nn.InstanceNorm2d(shape[0], affine=n.b % 2 == 0)
    return nn.BatchNorm2d(shape[0], affine=n.a % 3 == 0)


@IMAGES.block()
def transposed_convolution(shape: Shape, n: Choice) -> nn.Module:
    c, out = shape[0], n.width()
    groups = n.divisor(c, out)
    if n.c % 2 and shape[1] <= 4:
        return nn.ConvTranspose2d(c, out, 2, stride=2, groups=groups, bias=n.a % 2 == 0)
    return nn.ConvTranspose2d(c, out, 3, padding=1, groups=groups)


@IMAGES.block()
def bottleneck(shape: Shape, n: Choice) -> nn.Module:
    hidden = n.width()
    norm = nn.BatchNorm2d(hidden) if n.b % 2 else nn.Identity()
    return Apply(
        lambda x, down, norm, up: up(F.gelu(norm(down(x)))),
        conv(shape[0], hidden), norm, conv(hidden, shape[0], 1 + 2 * (n.c % 2)),
        free={"part0.weight": hidden},
    )  # fmt: skip


@IMAGES.block()
def squeeze_excite(shape: Shape, n: Choice) -> nn.Module:
    c, hidden = shape[0], n.width()

    def by_convolution(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
        return x * up(F.silu(down(x.mean((2, 3), keepdim=True)))).sigmoid()

    def by_linear(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
        gate = up(F.gelu(down(F.adaptive_avg_pool2d(x, 1).flatten(1)))).sigmoid()
        return x * (gate[:, :, None, None] if n.c % 2 else gate.view(x.shape[0], -1, 1, 1))

    if n.b % 2:
        return Apply(
            by_linear, nn.Linear(c, hidden), nn.Linear(hidden, c), free={"part0.weight": hidden}
        )
    return Apply(by_convolution, conv(c, hidden), conv(hidden, c), free={"part0.weight": hidden})


@IMAGES.block()
def gated_halves(shape: Shape, n: Choice) -> nn.Module:
    half = shape[0] // 2
    if half == 0:
        return nn.Identity()
    functions = (
        lambda x: F.glu(x[:, : 2 * half], 1),
        lambda x: x[:, :half] * x[:, half : 2 * half].sigmoid(),
        lambda x: x[:, :half].mul(torch.tanh(x[:, -half:])),
        lambda x: torch.maximum(*x[:, : 2 * half].chunk(2, 1)),
        lambda x: torch.addcmul(x[:, -half:], x[:, :half], x[:, :half]),
    )
    return Apply(functions[n.a % len(functions)])


@IMAGES.block()
def shuffle(shape: Shape, n: Choice) -> nn.Module:
    c, (g, h, w) = shape[0], (n.divisor(shape[0]), *shape[1:])
    functions = (
        lambda x: x.view(-1, g, c // g, h, w).transpose(1, 2).reshape(-1, c, h, w),
        lambda x: x.unflatten(1, (g, c // g)).permute(0, 2, 1, 3, 4).flatten(1, 2),
        lambda x: F.channel_shuffle(x, g),
        lambda x: torch.stack(x.chunk(g, 1), 2).flatten(1, 2) if c % g == 0 else x,
        lambda x: torch.cat(torch.unbind(x.view(-1, c // g, g, h, w), 2), 1),
    )
    return Apply(functions[n.a % len(functions)])


@IMAGES.block()
def rearrange(shape: Shape, n: Choice) -> nn.Module:
    c = shape[0]
    k = 1 + n.b % c
    functions = (
        lambda x: torch.cat([x[:, k:], x[:, :k]], 1),
        lambda x: x.flip(1),
        lambda x: x[:, : max(1, c - k)],
        lambda x: torch.cat(x.split([k, c - k], 1)[::-1], 1) if k < c else x,
        lambda x: torch.cat(x.split(k, 1)[::-1], 1),
        lambda x: torch.cat([x, x[:, :k]], 1),
        lambda x: F.pad(x, (0, 0, 0, 0, n.c % 3, 1)),
        lambda x: x.narrow(1, c - k, k),
        lambda x: x.roll(k, 1),
        lambda x: x[:, ::2],
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: x.repeat_interleave(2, 1),
        lambda x: x[:, list(range(k, c)) + list(range(k))],
    )
    return Apply(functions[n.a % len(functions)])


@IMAGES.block()
def space(shape: Shape, n: Choice) -> nn.Module:
    _, h, w = shape
    if min(h, w) < 4:
        return Apply(lambda x: F.interpolate(x, scale_factor=2))
    functions = (
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 1, 1),
        lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
        lambda x: F.pad(x, (1, 0, 2, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: x.flip(3),
        lambda x: x.roll((1, -1), (2, 3)),
        lambda x: x[:, :, ::2, 1:],
        lambda x: F.interpolate(x, (h // 2, w), mode="bilinear"),
        lambda x: x.transpose(2, 3),
        lambda x: x.mean(3, keepdim=True),
        lambda x: x.amax(2, keepdim=True).expand(-1, -1, h, -1),
        lambda x: F.unfold(x, 2, stride=2).view(x.shape[0], -1, h // 2, w // 2),
        lambda x: (
            F.adaptive_max_pool2d(x, 2) + F.avg_pool2d(x, (h // 2, w // 2)).mean((2, 3), True)
        ),
    )
    return Apply(functions[n.a % len(functions)])


@IMAGES.block()
def pixels(shape: Shape, n: Choice) -> nn.Module:
    c, h, w = shape
    if n.a % 2 and c % 4 == 0:
        return nn.PixelShuffle(2)
    if h % 2 or w % 2:
        return nn.Identity()
    functions = (
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], 1),
        lambda x: (
            x.view(-1, c, h // 2, 2, w // 2, 2)
            .permute(0, 3, 5, 1, 2, 4)
            .reshape(-1, 4 * c, h // 2, w // 2)
        ),
        lambda x: x.reshape(-1, c, h // 2, 2, w).transpose(2, 3).flatten(1, 2),
    )
    return Apply(functions[n.b % len(functions)])


@IMAGES.block()
def scale(shape: Shape, n: Choice) -> nn.Module:
    c, h, w = shape
    shapes = ((c, 1, 1), (1, c, 1, 1), (c, h, w), (1,), (h, w), (c, h, 1))
    own = parameter(*shapes[n.a % len(shapes)])
    functions = (
        lambda x, p: x * p,
        lambda x, p: x + p,
        lambda x, p: (1 * x).mul_(p).add_(1),
        lambda x, p: p.sigmoid() * x - p,
        lambda x, p: torch.where(p > 0.9, x, p * x),
    )
    return Apply(functions[n.b % len(functions)], own)


@IMAGES.block(entangled=True)
def mixed_axes(shape: Shape, n: Choice) -> nn.Module:
    c, h, w = shape
    g = n.divisor(c)
    match n.a % 6:
        case 0:
            return Apply(lambda x, f: f(x.flatten(1, 2)).view(-1, c, h, w), nn.Linear(w, w))
        case 1:
            return Apply(lambda x, f: f(x.flatten(2)).unflatten(2, (h, w)), nn.Linear(h * w, h * w))
        case 2:
            return Apply(lambda x, f: f(x.flatten(1, 2)).view(-1, 4, 2, w), nn.Conv1d(c * h, 8, 1))
        case 3:
            part = conv(c // g, c // g, 3)
            return Apply(lambda x, f: f(x.reshape(-1, c // g, g * h, w)).reshape(-1, c, h, w), part)
        case 4:
            part = conv(c // g, c // g, 3)
            return Apply(lambda x, f: f(x.reshape(-1, c // g, h, w)).reshape(-1, c, h, w), part)
        case _:
            return Apply(lambda x, f: f(x.flatten(1)).view(-1, 3, 2, 4), nn.Linear(c * h * w, 24))


@IMAGES.block()
def reused(shape: Shape, n: Choice) -> nn.Module:
    c = shape[0]
    if n.a % 2:
        return Apply(lambda x, f, g: f(F.gelu(g(f(x)))), conv(c, n.width()), conv(n.width(), c))
    return Apply(lambda x, f: f(F.silu(f(x))), conv(c, c, 3, n.divisor(c)))

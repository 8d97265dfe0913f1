"""Blocks of random classifiers that take statistics over channels or parts of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_parts import IMAGES, Apply, Choice, Shape, conv, parameter


@IMAGES.block(entangled=True)
def norm_over_channels(shape: Shape, n: Choice) -> nn.Module:
    c, h, w = shape
    match n.a % 5:
        case 0:
            return nn.GroupNorm(n.divisor(c), c, affine=n.c % 3 < 2)
        case 1:
            return Apply(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(c))
        case 2:
            return Apply(lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), nn.RMSNorm(c))
        case 3:
            return nn.LayerNorm([c, h, w])
        case _:
            return Apply(_by_hand, parameter(c, 1, 1))


def _by_hand(x: Tensor, scale: Tensor) -> Tensor:
    variance = x.var(1, keepdim=True, unbiased=False)
    return (x - x.mean(1, keepdim=True)) / (variance + 0.1).sqrt() * scale


@IMAGES.block(entangled=True)
def statistic(shape: Shape, n: Choice) -> nn.Module:
    functions = (
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: x * x.sum(1, keepdim=True).tanh(),
        lambda x: x.softmax(1) * 3,
        lambda x: F.normalize(x, dim=1, eps=1e-3),
        lambda x: x * x.amax(1, keepdim=True).sigmoid(),
        lambda x: x - x.mean((1, 2, 3), keepdim=True),
        lambda x: x * (g := x.norm(dim=(2, 3), keepdim=True)) / (g.mean(1, keepdim=True) + 1e-2),
        lambda x: x.log_softmax(1),
        lambda x: x + x.logsumexp(1, keepdim=True),
        lambda x: x.cumsum(1),
        lambda x: x - x.max(1, keepdim=True)[0],
        lambda x: x * x.std((1, 2, 3), keepdim=True).sigmoid(),
    )
    return Apply(functions[n.a % len(functions)])


@IMAGES.block(entangled=True)
def spatial_attention(shape: Shape, n: Choice) -> nn.Module:
    def attend(x: Tensor, f: nn.Module) -> Tensor:
        return x * f(torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid()

    return Apply(attend, conv(2, 1, 3))


@IMAGES.block(entangled=True)
def grouped_axis(shape: Shape, n: Choice) -> nn.Module:
    c, h, w = shape
    g = n.divisor(c)
    scale = parameter(g, 1, 1, 1)
    functions = (
        lambda x, p: (x.view(-1, g, c // g, h, w) * p).flatten(1, 2),
        lambda x, p: x.view(-1, g, c // g, h, w).sum(1),
        lambda x, p: (x.unflatten(1, (g, c // g)) + p).softmax(1).flatten(1, 2),
        lambda x, p: (x.unflatten(1, (g, c // g)).softmax(2) * p).flatten(1, 2),
        lambda x, p: (x.view(-1, g, c // g, h, w) * p).amax(2),
        lambda x, p: (x.view(-1, g, c // g, h, w) * p)[:, 0],
        lambda x, p: (x.view(-1, c // g, g, h, w) - p[:, 0]).mean(1),
        lambda x, p: (
            torch.stack([y * y for y in x.view(-1, g, c // g, h, w).unbind(1)], 1)
            .mul(p)
            .flatten(1, 2)
        ),
    )
    return Apply(functions[n.a % len(functions)], scale)


@IMAGES.block(entangled=True)
def standardised(shape: Shape, n: Choice) -> nn.Module:
    def forward(x: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
        flat = weight.reshape(1, weight.shape[0], -1)
        flat = F.batch_norm(flat, None, None, weight=gain, training=True)
        return F.conv2d(x, flat.reshape_as(weight), padding=1)

    def by_hand(x: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        lengths = centred.flatten(1).norm(dim=1) + 0.1
        return F.conv2d(x, centred * (gain / lengths).view(-1, 1, 1, 1), padding=1)

    out = n.width()
    return Apply(by_hand if n.b % 2 else forward, parameter(out, shape[0], 3, 3), parameter(out))

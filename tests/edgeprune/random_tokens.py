"""Blocks of random classifiers that work on tokens, (N, T, C)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_parts import TOKENS, Apply, Choice, Shape, parameter


@TOKENS.block()
def linear(shape: Shape, n: Choice) -> nn.Module:
    return nn.Linear(shape[1], n.width(), bias=n.b % 2 == 0)


@TOKENS.block()
def mlp(shape: Shape, n: Choice) -> nn.Module:
    c, hidden = shape[1], n.width()
    return Apply(
        lambda x, up, down: down(F.gelu(up(x))),
        nn.Linear(c, hidden), nn.Linear(hidden, c), free={"part0.weight": hidden},
    )  # fmt: skip


@TOKENS.block()
def gated_mlp(shape: Shape, n: Choice) -> nn.Module:
    c, hidden = shape[1], n.width()
    free = {"part0.weight": hidden}
    match n.b % 3:
        case 0:
            up = nn.Linear(c, 2 * hidden)
            return Apply(
                lambda x, up, down: down(F.glu(up(x))), up, nn.Linear(hidden, c), free=free
            )
        case 1:

            def forward(x: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
                a, b = up(x).chunk(2, -1)
                return down(F.silu(a) * b)

            return Apply(forward, nn.Linear(c, 2 * hidden), nn.Linear(hidden, c), free=free)
        case _:
            return Apply(
                lambda x, a, b, down: down(F.silu(a(x)) * b(x)),
                nn.Linear(c, hidden), nn.Linear(c, hidden), nn.Linear(hidden, c), free=free,
            )  # fmt: skip


@TOKENS.block()
def positions(shape: Shape, n: Choice) -> nn.Module:
    t, c = shape
    shapes = ((1, t, c), (t, c), (c,), (t, 1))
    p = parameter(*shapes[n.a % len(shapes)])
    return Apply((lambda x, p: x * p) if n.b % 2 else (lambda x, p: x + p), p)


@TOKENS.block()
def class_token(shape: Shape, n: Choice) -> nn.Module:
    c = shape[1]
    functions = (
        lambda x, p: torch.cat([p.expand(x.shape[0], -1, -1), x], 1),
        lambda x, p: torch.cat([x, x.mean(1, keepdim=True) * p], 1),
        lambda x, p: torch.cat([p.repeat(x.shape[0], 1, 1), x], dim=-2),
    )
    return Apply(functions[n.a % len(functions)], parameter(1, 1, c))


@TOKENS.block()
def move_tokens(shape: Shape, n: Choice) -> nn.Module:
    t, c = shape
    even = t - t % 2
    functions = (
        lambda x: x.flip(1),
        lambda x: x.roll(1, 1),
        lambda x: x[:, 1:] if t > 1 else x,
        lambda x: x[:, ::2],
        lambda x: torch.cat([x[:, 0:even:2], x[:, 1:even:2]], -1) if even else x,
        lambda x: x[:, :even].reshape(-1, even // 2, 2 * c) if even else x,
        lambda x: (
            x[:, :even].view(-1, 2, even // 2, c).permute(0, 2, 3, 1).flatten(2) if even else x
        ),
        lambda x: F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).mT,
    )
    return Apply(functions[n.a % len(functions)])


@TOKENS.block(entangled=True)
def token_mixing(shape: Shape, n: Choice) -> nn.Module:
    t, c = shape
    match n.a % 4:
        case 0:
            return Apply(lambda x, f: f(x.mT).mT, nn.Linear(t, t))
        case 1:
            hidden = n.width()
            return Apply(
                lambda x, up, down: down(F.gelu(up(x.transpose(1, 2)))).transpose(1, 2),
                nn.Linear(t, hidden), nn.Linear(hidden, t), free={"part0.weight": hidden},
            )  # fmt: skip
        case 2:
            return nn.Conv1d(t, t, 1)
        case _:
            return Apply(
                lambda x, f: f(x.transpose(1, 2)).transpose(1, 2),
                nn.Conv1d(c, c, 3, padding=1, groups=n.divisor(c)),
            )


@TOKENS.block()
def token_batch_norm(shape: Shape, n: Choice) -> nn.Module:
    return Apply(lambda x, f: f(x.transpose(1, 2)).transpose(1, 2), nn.BatchNorm1d(shape[1]))


@TOKENS.block(entangled=True)
def norm(shape: Shape, n: Choice) -> nn.Module:
    t, c = shape
    match n.a % 4:
        case 0:
            return nn.LayerNorm(c, elementwise_affine=n.b % 3 < 2, bias=n.b % 3 == 0)
        case 1:
            return nn.RMSNorm(c)
        case 2:
            return nn.LayerNorm([t, c])
        case _:
            g = n.divisor(c)
            return Apply(lambda x, f: f(x.view(-1, t, c // g, g)).flatten(2), nn.LayerNorm(g))


@TOKENS.block()
def spatial_gate(shape: Shape, n: Choice) -> nn.Module:
    t, c = shape
    hidden = n.width()

    def forward(x: Tensor, up: nn.Module, mix: nn.Module, down: nn.Module) -> Tensor:
        u, v = up(x).chunk(2, dim=-1)
        return down(u * mix(v.transpose(-1, -2)).transpose(-1, -2))

    return Apply(
        forward,
        nn.Linear(c, 2 * hidden),
        nn.Linear(t, t),
        nn.Linear(hidden, c),
        free={"part0.weight": hidden},
    )


@TOKENS.block(entangled=True)
def recurrent(shape: Shape, n: Choice) -> nn.Module:
    c = shape[1]
    kind = (nn.GRU, nn.LSTM, nn.RNN)[n.a % 3]
    return Apply(lambda x, f: f(x)[0], kind(c, 4, batch_first=True, bidirectional=n.b % 2 == 1))

"""Blocks of random classifiers that work on tokens, (N, T, C)."""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_parts import Apply, Choice, Shape, Table, parameter

TOKENS: Final = Table()
HEADS: Final = ((2, 3), (3, 2), (1, 4), (2, 2), (4, 2))

Core = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v of (N, H, T, D) → (N, H, T, D)


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


@TOKENS.block()
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
def batch_norm(shape: Shape, n: Choice) -> nn.Module:
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


@TOKENS.block()
def attention(shape: Shape, n: Choice) -> nn.Module:
    """Self-attention: how q, k, v are packed by ``a``, how it is computed by ``c``."""
    t, c = shape
    h, d = HEADS[n.b % len(HEADS)]
    cores = (_fused, _by_hand, _by_einsum, _merged_heads)
    core = cores[n.c % len(cores)]
    unpack = UNPACK[n.a % len(UNPACK)]

    def forward(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        return out(core(*unpack(qkv(x), t, h, d)).transpose(1, 2).reshape(-1, t, h * d))

    return Apply(
        forward,
        nn.Linear(c, 3 * h * d, bias=n.c % 3 < 2),
        nn.Linear(h * d, c),
        free={"part0.weight": _units(h, d)},
    )


@TOKENS.block()
def attention_of_three(shape: Shape, n: Choice) -> nn.Module:
    """Attention of three linear maps, with a bias, a constant or a mix per pair of heads."""
    t, c = shape
    h, d = HEADS[n.b % len(HEADS)]
    e = (d, 1 + d)[n.a % 2]

    def forward(
        x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Module, extra: Tensor
    ) -> Tensor:
        q, k, v = (f(x).view(-1, t, h, f.out_features // h).transpose(1, 2) for f in (q, k, v))
        match n.c % 5:
            case 0:
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=extra)
            case 1:
                y = (q @ k.mT / d**0.5 + extra).softmax(-1) @ v
            case 2:
                angle = torch.arange(t, dtype=x.dtype)[:, None]
                y = (
                    F.scaled_dot_product_attention(q * angle.cos(), k * angle.cos(), v, scale=0.7)
                    * (1 + extra[:, :1, :1])
                )
            case 3:
                y = ((q * extra[:, :1, :1]) @ k.transpose(-2, -1)).sigmoid().matmul(v)
            case _:
                logits = torch.einsum(
                    "hg,ngts->nhts", extra[:, 0, :1] + extra[:, 0, :1].T, q @ k.mT
                )
                y = logits.softmax(-1) @ v
        return out(y.transpose(1, 2).flatten(2))

    return Apply(
        forward, nn.Linear(c, h * d), nn.Linear(c, h * d, bias=False), nn.Linear(c, h * e), nn.Linear(h * e, c),
        parameter(h, t, t), free={"part2.weight": _units(h if n.c % 5 < 4 else 1, e)},
    )  # fmt: skip


@TOKENS.block()
def grouped_query(shape: Shape, n: Choice) -> nn.Module:
    t, c = shape
    kv, r, d = ((1, 2, 3), (2, 2, 2), (2, 1, 3), (1, 3, 2))[n.b % 4]

    def forward(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Module) -> Tensor:
        q = q(x).view(-1, t, kv * r, d).transpose(1, 2)
        k, v = (f(x).view(-1, t, kv, d).transpose(1, 2) for f in (k, v))
        match n.a % 4:
            case 0:
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            case 1:
                y = F.scaled_dot_product_attention(
                    q, k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
                )
            case 2:
                k, v = (
                    z[:, :, None].expand(-1, -1, r, -1, -1).reshape(-1, kv * r, t, d)
                    for z in (k, v)
                )
                y = (q @ k.mT).softmax(-1) @ v
            case _:
                q = q.reshape(-1, kv, r, t, d)
                y = ((q @ k[:, :, None].mT).softmax(-1) @ v.unsqueeze(2)).flatten(1, 2)
        return out(y.transpose(1, 2).reshape(-1, t, kv * r * d))

    return Apply(
        forward,
        nn.Linear(c, kv * r * d),
        nn.Linear(c, kv * d),
        nn.Linear(c, kv * d),
        nn.Linear(kv * r * d, c),
    )


@TOKENS.block()
def torch_attention(shape: Shape, n: Choice) -> nn.Module:
    c = shape[1]
    attend = nn.MultiheadAttention(c, n.divisor(c), batch_first=n.a % 2 == 0)
    if n.a % 2:
        return Apply(
            lambda x, f: f(y := x.transpose(0, 1), y, y, need_weights=False)[0].transpose(0, 1),
            attend,
        )
    return Apply(lambda x, f: f(x, x, x, need_weights=n.c % 2 == 1)[0], attend)


@TOKENS.block(entangled=True)
def other_attention(shape: Shape, n: Choice) -> nn.Module:
    """Attention whose softmax or norms run over head dimensions."""
    t, c = shape
    h, d = HEADS[n.b % len(HEADS)]

    def forward(x: Tensor, qkv: nn.Module, out: nn.Module, own: Tensor) -> Tensor:
        q, k, v = UNPACK[n.c % len(UNPACK)](qkv(x), t, h, d)
        match n.a % 4:
            case 0:
                y = (q.softmax(-1) @ (k.softmax(-2).mT @ v)) * own
            case 1:
                q, k = F.normalize(q.mT, dim=-1), F.normalize(k.mT, dim=-1)
                y = ((q @ k.mT * own).softmax(-1) @ v.mT).mT
            case 2:
                q, k = F.normalize(q, dim=-1, eps=1e-2), F.normalize(k, dim=-1, eps=1e-2)
                y = (q @ k.transpose(-2, -1) * own).softmax(-1) @ v
            case _:
                q, k = F.layer_norm(q, (d,)), F.rms_norm(k, (d,))
                y = F.scaled_dot_product_attention(q, k, v * own)
        return out(y.transpose(1, 2).reshape(-1, t, h * d))

    return Apply(forward, nn.Linear(c, 3 * h * d), nn.Linear(h * d, c), parameter(h, 1, 1))


@TOKENS.block(entangled=True)
def recurrent(shape: Shape, n: Choice) -> nn.Module:
    c = shape[1]
    kind = (nn.GRU, nn.LSTM, nn.RNN)[n.a % 3]
    return Apply(lambda x, f: f(x)[0], kind(c, 4, batch_first=True, bidirectional=n.b % 2 == 1))


def _units(*sizes: int) -> int:
    """Count what can be removed of a product of axes: one of size 1 must stay."""
    return sum(size for size in sizes if size > 1)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def _by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("nhid,nhjd->nhij", q, k).softmax(-1)
    return torch.einsum("nhij,nhjd->nhid", weights, v)


def _merged_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, h, t, d = q.shape
    q, k, v = (z.reshape(n * h, t, d) for z in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(n, h, t, d)


def _three_heads_dims(x: Tensor, t: int, h: int, d: int) -> tuple[Tensor, ...]:
    return x.reshape(x.shape[0], t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)


def _heads_three_dims(x: Tensor, t: int, h: int, d: int) -> tuple[Tensor, ...]:
    return x.view(-1, t, h, 3 * d).transpose(1, 2).chunk(3, dim=-1)


def _chunks(x: Tensor, t: int, h: int, d: int) -> tuple[Tensor, ...]:
    return tuple(part.unflatten(-1, (h, d)).transpose(1, 2) for part in x.chunk(3, -1))


def _dims_heads_three(x: Tensor, t: int, h: int, d: int) -> tuple[Tensor, ...]:
    packed = x.view(-1, t, d, h, 3).permute(4, 0, 3, 1, 2)
    return packed[0], packed[1], packed[2]


def _split(x: Tensor, t: int, h: int, d: int) -> tuple[Tensor, ...]:
    parts = x.split([h * d, h * d, h * d], dim=2)
    return tuple(part.reshape(-1, t, h, d).permute(0, 2, 1, 3) for part in parts)


UNPACK: Final = (_three_heads_dims, _chunks, _heads_three_dims, _split, _dims_heads_three)

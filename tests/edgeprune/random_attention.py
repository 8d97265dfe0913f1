"""Attention in random classifiers: how heads are packed, and how it is computed."""

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_parts import TOKENS, Apply, Choice, Shape, parameter

HEADS: Final = ((2, 3), (3, 2), (1, 4), (2, 2), (4, 2))


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
    """Attention of three linear maps, with a bias, a constant or a mix of heads (by ``c``)."""
    t, c = shape
    h, d = HEADS[n.b % len(HEADS)]
    e = d + n.a % 2
    core = BIASED[n.c % len(BIASED)]

    def forward(x: Tensor, *parts: Any) -> Tensor:
        *maps, out, extra = parts
        q, k, v = (f(x).view(-1, t, h, f.out_features // h).transpose(1, 2) for f in maps)
        return out(core(q, k, v, extra).transpose(1, 2).flatten(2))

    maps = nn.Linear(c, h * d), nn.Linear(c, h * d, bias=False), nn.Linear(c, h * e)
    heads = 1 if core is _mixed_heads else h
    free = {"part2.weight": _units(heads, e)}
    return Apply(forward, *maps, nn.Linear(h * e, c), parameter(h, t, t), free=free)


@TOKENS.block()
def grouped_query(shape: Shape, n: Choice) -> nn.Module:
    """Attention in which several heads of queries share one of keys and values."""
    t, c = shape
    kv, r, d = ((1, 2, 3), (2, 2, 2), (2, 1, 3), (1, 3, 2))[n.b % 4]
    core = SHARED[n.a % len(SHARED)]

    def forward(x: Tensor, *parts: Any) -> Tensor:
        *maps, out = parts
        q, k, v = (f(x).view(-1, t, f.out_features // d, d).transpose(1, 2) for f in maps)
        return out(core(q, k, v, r).transpose(1, 2).reshape(-1, t, kv * r * d))

    maps = nn.Linear(c, kv * r * d), nn.Linear(c, kv * d), nn.Linear(c, kv * d)
    return Apply(forward, *maps, nn.Linear(kv * r * d, c))


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


def _masked(q: Tensor, k: Tensor, v: Tensor, extra: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=extra)


def _biased(q: Tensor, k: Tensor, v: Tensor, extra: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5 + extra).softmax(-1) @ v


def _rotated(q: Tensor, k: Tensor, v: Tensor, extra: Tensor) -> Tensor:
    turn = torch.arange(q.shape[2], dtype=q.dtype)[:, None].cos()
    y = F.scaled_dot_product_attention(q * turn, k * turn, v, scale=0.7)
    return y * (1 + extra[:, :1, :1])


def _sigmoid(q: Tensor, k: Tensor, v: Tensor, extra: Tensor) -> Tensor:
    return ((q * extra[:, :1, :1]) @ k.transpose(-2, -1)).sigmoid().matmul(v)


def _mixed_heads(q: Tensor, k: Tensor, v: Tensor, extra: Tensor) -> Tensor:
    mix = extra[:, 0, :1] + extra[:, 0, :1].T
    return torch.einsum("hg,ngts->nhts", mix, q @ k.mT).softmax(-1) @ v


def _shared_by_torch(q: Tensor, k: Tensor, v: Tensor, r: int) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def _shared_by_repeating(q: Tensor, k: Tensor, v: Tensor, r: int) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat_interleave(r, 1), v.repeat_interleave(r, 1))


def _shared_by_expanding(q: Tensor, k: Tensor, v: Tensor, r: int) -> Tensor:
    k, v = (
        z[:, :, None].expand(-1, -1, r, -1, -1).reshape(-1, z.shape[1] * r, *z.shape[2:])
        for z in (k, v)
    )
    return (q @ k.mT).softmax(-1) @ v


def _shared_by_broadcasting(q: Tensor, k: Tensor, v: Tensor, r: int) -> Tensor:
    q = q.unflatten(1, (k.shape[1], r))
    return ((q @ k[:, :, None].mT).softmax(-1) @ v.unsqueeze(2)).flatten(1, 2)


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
BIASED: Final = (_masked, _biased, _rotated, _sigmoid, _mixed_heads)
SHARED: Final = (
    _shared_by_torch,
    _shared_by_repeating,
    _shared_by_expanding,
    _shared_by_broadcasting,
)

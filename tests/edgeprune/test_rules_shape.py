"""Rules that move, merge, join, divide and repeat axes: what stays removable, and that cuts fit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.axes import analyse

from .models import images
from .probe import Body, channels, check, groups_of, probe, reasons

# body, channels out, how many of the 8 channels can go, and in groups of which sizes
CASES: dict[str, tuple[Body, int, int, list[int]]] = {
    "reshape": (
        lambda m, x: x.reshape(len(x), 2, 4, 36).transpose(1, 2).flatten(1, 2), 8, 8, [2, 4],
    ),
    "reshape as": (lambda m, x: m.mix(x).flatten(2).reshape_as(x) + x, 8, 8, [8]),
    "view as": (lambda m, x: x.flatten(1).view_as(x * 2), 8, 8, [8]),
    "ravel": (lambda m, x: x * m.per_channel.ravel()[:, None, None], 8, 8, [8]),
    "flatten into channels": (lambda m, x: x.flatten(1)[..., None], 288, 8, [8]),
    "unflatten": (lambda m, x: x.unflatten(1, (4, 2)).sum(3).flatten(1, 2), 8, 8, [4, 2]),
    "movedim": (lambda m, x: x.movedim((1, 3), (3, 1)).movedim(3, 1), 8, 8, [8]),
    "swapaxes": (lambda m, x: x.swapaxes(1, 2).swapdims(-3, -2), 8, 8, [8]),
    "matrix transposes": (lambda m, x: x.flatten(2).mT.adjoint(), 8, 8, [8]),
    "transpose of a matrix": (lambda m, x: x.flatten(2).mean(2).t().T[..., None], 8, 8, [8]),
    "permute": (lambda m, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 8, 8, [8]),
    "squeeze": (lambda m, x: (x[:, None] * m.per_channel).squeeze(1), 8, 8, [8]),
    "squeeze of several": (lambda m, x: x[:, None, None].squeeze((1, 2)), 8, 8, [8]),
    "squeeze a channel": (lambda m, x: x * x[:, 2:3].squeeze(1)[:, None], 8, 7, [7]),
    "shuffle by hand": (
        lambda m, x: F.relu(x.view(len(x), 2, 4, 6, 6).transpose(1, 2).reshape(len(x), 8, 6, 6)),
        8, 8, [2, 4],
    ),
    "expand": (lambda m, x: x * m.per_channel.expand(-1, 6, 6), 8, 8, [8]),
    "expand to channels": (lambda m, x: x * m.per_channel[:1].expand(8, 6, 6), 8, 8, [8]),
    "expand as": (lambda m, x: x * m.per_channel[None].expand_as(x), 8, 8, [8]),
    "broadcast to": (lambda m, x: x + m.per_channel.broadcast_to(8, 6, 6), 8, 8, [8]),
    "broadcast tensors": (
        lambda m, x: torch.add(*torch.broadcast_tensors(x, m.per_channel)), 8, 8, [8],
    ),
    "cat": (lambda m, x: torch.cat([x, F.relu(x)], 1), 16, 8, [8]),
    "concatenate": (lambda m, x: torch.concatenate([x, m.mix(x)], 1), 16, 8, [8]),
    "hstack": (lambda m, x: torch.hstack([x, m.mix(x)]), 16, 8, [8]),
    "vstack": (
        lambda m, x: x * torch.vstack([m.slopes, m.slopes]).sum(0)[:, None, None], 8, 8, [8],
    ),
    "dstack": (lambda m, x: torch.dstack([x, F.relu(x)]), 8, 8, [8]),
    "dstack of vectors": (
        lambda m, x: x * torch.dstack([m.slopes, m.slopes]).sum((0, 2))[:, None, None], 8, 8, [8],
    ),
    "stack": (lambda m, x: torch.stack([x, F.relu(x)], 2), 8, 8, [8]),
    "stack of two": (lambda m, x: torch.stack([x, m.mix(x)], 2), 8, 8, [8]),
    "cat in space of two": (lambda m, x: torch.cat([x, m.mix(x)], 2), 8, 8, [8]),
    "chunk": (lambda m, x: torch.mul(*x.chunk(2, 1)), 4, 8, [4]),
    "uneven chunk": (lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1), 8, 8, [3, 3, 2]),
    "split": (lambda m, x: torch.cat(x.split([3, 5], 1)[::-1], 1), 8, 8, [3, 5]),
    "unsafe split": (lambda m, x: torch.cat(torch.unsafe_split(x, 3, 1)[1:], 1), 5, 8, [3, 3, 2]),
    "tensor split": (lambda m, x: torch.cat(x.tensor_split(3, 1)[1:], 1), 5, 8, [3, 3, 2]),
    "slice": (lambda m, x: x[:, 2:7], 5, 8, [3, 5]),
    "slice from the end": (lambda m, x: x[:, -3:], 3, 8, [5, 3]),
    "slice in strides": (lambda m, x: x[:, 1::2], 4, 8, [4]),
    "slice in uneven strides": (lambda m, x: x[:, ::3], 3, 0, []),
    "stride within a product": (
        lambda m, x: x.unflatten(1, (2, 4)).flatten(1, 2)[:, ::4], 2, 8, [2],
    ),
    "narrow": (lambda m, x: torch.ops.aten.narrow.default(x, 1, 2, 4), 4, 8, [4, 4]),
    "select": (lambda m, x: x * x.select(1, 3)[:, None], 8, 7, [7]),
    "select from the end": (lambda m, x: x * x[:, -1:].select(1, 0)[:, None], 8, 7, [7]),
    "unbind a product": (
        lambda m, x: torch.add(*x.unflatten(1, (2, 4)).unbind(1)), 4, 8, [4],
    ),
    "unbind channels": (lambda m, x: torch.stack(x.unbind(1)[:4], 1), 4, 0, []),
    "diagonal": (
        lambda m, x: torch.diagonal(x[:, :, None] * m.mix(x)[:, None], 0, 1, 2).movedim(-1, 1),
        8, 8, [8],
    ),
    "diagonal beside": (
        lambda m, x: torch.diagonal(x[:, :, None] * x[:, None], 1, 1, 2).movedim(-1, 1), 7, 0, [],
    ),
    "repeat": (lambda m, x: x.repeat(1, 2, 1, 1), 16, 8, [8]),
    "repeat to channels": (lambda m, x: x * m.per_channel[:1].repeat(8, 1, 1), 8, 8, [8]),
    "repeat by samples": (lambda m, x: x * m.per_channel.repeat(len(x), 1, 1, 1), 8, 8, [8]),
    "tile": (lambda m, x: x.tile(3, 1, 1), 24, 8, [8]),
    "tile a vector": (lambda m, x: x * m.slopes.tile(1)[:, None, None], 8, 8, [8]),
    "repeat interleave": (lambda m, x: x.repeat_interleave(2, 1), 16, 8, [8]),
    "repeat interleave of known size": (
        lambda m, x: x.repeat_interleave(2, 1, output_size=16), 16, 8, [8],
    ),
    "repeat interleave to channels": (
        lambda m, x: x * m.slopes[:1].repeat_interleave(8, 0)[:, None, None], 8, 8, [8],
    ),
    "repeat interleave of all": (
        lambda m, x: x * m.slopes.repeat_interleave(2).view(8, 2).sum(1)[:, None, None], 8, 8, [8],
    ),
    "flip": (lambda m, x: x.flip(1) + x, 8, 8, [4]),
    "roll": (lambda m, x: x.roll(3, 1) * m.per_channel, 8, 8, [8]),
    "roll backwards": (lambda m, x: x.roll((-1, 2), (1, 2)) * m.per_channel, 8, 8, [8]),
    "roll onto itself": (lambda m, x: x.roll(2, 1) + x, 8, 8, [2]),
    "roll over all": (lambda m, x: x * m.per_channel.roll(1), 8, 0, []),
    "roll over space": (lambda m, x: x.roll((1, -2), (2, 3)), 8, 8, [8]),
    "in place on a view": (lambda m, x: _halve_first(x * 1), 8, 8, [3, 5]),
    "second image's twin": (lambda m, x: x + x[-1:] * 0.1, 8, 8, [8]),
}  # fmt: skip


def _halve_first(x: Tensor) -> Tensor:
    x[:, :3] *= 0.5
    return x


@pytest.mark.parametrize("name", CASES)
def test_channels_pass_as_far_as_the_shape_allows(name: str) -> None:
    body, out, left, groups = CASES[name]
    dense = probe(body, out)
    analysis = analyse(dense)
    assert channels(analysis) == left
    assert list(groups_of(analysis).values()) == groups
    check(dense, vacuous=not left)


STUCK: dict[str, tuple[Body, int, str]] = {
    "unbind": (lambda m, x: torch.stack(x.unbind(1)[:4], 1), 4, "(taken apart)"),
    "select": (lambda m, x: x * x.select(1, 3)[:, None], 8, "(selected position)"),
    "slice": (lambda m, x: x[:, ::3], 3, "(strided range)"),
    "roll": (lambda m, x: x * m.per_channel.roll(1), 8, "(rolled over all axes)"),
    "stretch": (lambda m, x: x[:, :1] * x, 8, "(broadcast from size 1)"),
    "expand": (lambda m, x: x[:, :1].expand(-1, 8, -1, -1) * x, 8, "(expanded from size 1)"),
}


@pytest.mark.parametrize("name", STUCK)
def test_what_stands_in_the_way_is_named(name: str) -> None:
    body, out, reason = STUCK[name]
    found = reasons(analyse(probe(body, out)), "conv.weight")
    assert {r for r in found if reason in r and r.startswith("aten.")}
    assert found - {"image channels"} == {r for r in found if reason in r}


def test_what_takes_the_shape_of_another_loses_the_same_channels() -> None:
    analysis = analyse(probe(lambda m, x: m.mix(x).flatten(2).reshape_as(x)))
    assert groups_of(analysis, "conv.weight") == groups_of(analysis, "mix.weight") == {"conv": 8}


def test_counts_that_depend_on_the_batch_stay_so() -> None:
    dense = probe(lambda m, x: x * m.per_channel.repeat(len(x), 1, 1, 1))
    assert dense.module(images(5, 6)).shape == (5, 5)
    check(dense)

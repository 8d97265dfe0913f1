"""Rules on positions in space: channels pass, and stay channels when they trade places."""

import pytest
import torch
import torch.nn.functional as F

from edgeprune.axes import analyse

from .probe import Body, channels, check, groups_of, probe, reasons

# body, channels out, sizes of the groups that the 8 channels make
CASES: dict[str, tuple[Body, int, list[int]]] = {
    "max pool": (lambda m, x: F.max_pool2d(x, 2), 8, [8]),
    "max pool with indices": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], 8, [8]),
    "average pool": (lambda m, x: F.avg_pool2d(x, 3, 1), 8, [8]),
    "adaptive average pool": (lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)), 8, [8]),
    "adaptive max pool": (lambda m, x: F.adaptive_max_pool2d(x, 2), 8, [8]),
    "power pool": (lambda m, x: F.lp_pool2d(x, 2, 2), 8, [8]),
    "max pool 1d": (lambda m, x: F.max_pool1d(x.flatten(2), 3), 8, [8]),
    "average pool 1d": (lambda m, x: F.avg_pool1d(x.flatten(2), 3), 8, [8]),
    "adaptive pools 1d": (
        lambda m, x: F.adaptive_max_pool1d(F.adaptive_avg_pool1d(x.flatten(2), 5), 3),
        8, [8],
    ),
    "pools 3d": (
        lambda m, x: F.avg_pool3d(F.max_pool3d(x.unflatten(3, (2, 3)), 2, 1), 1), 8, [8],
    ),
    "adaptive pools 3d": (
        lambda m, x: F.adaptive_avg_pool3d(F.adaptive_max_pool3d(x[..., None], 2), 1), 8, [8],
    ),
    "nearest": (lambda m, x: F.interpolate(x, scale_factor=2), 8, [8]),
    "nearest exact": (lambda m, x: F.interpolate(x, 9, mode="nearest-exact"), 8, [8]),
    "nearest 1d": (lambda m, x: F.interpolate(x.flatten(2), 9), 8, [8]),
    "nearest 3d": (lambda m, x: F.interpolate(x[..., None], scale_factor=2), 8, [8]),
    "linear": (lambda m, x: F.interpolate(x.flatten(2), 20, mode="linear"), 8, [8]),
    "bilinear": (lambda m, x: F.interpolate(x, 4, mode="bilinear"), 8, [8]),
    "bilinear smoothed": (
        lambda m, x: F.interpolate(x, 4, mode="bilinear", antialias=True), 8, [8],
    ),
    "bicubic": (lambda m, x: F.interpolate(x, 4, mode="bicubic"), 8, [8]),
    "bicubic smoothed": (lambda m, x: F.interpolate(x, 4, mode="bicubic", antialias=True), 8, [8]),
    "trilinear": (lambda m, x: F.interpolate(x[..., None], (4, 4, 2), mode="trilinear"), 8, [8]),
    "padding": (lambda m, x: F.pad(x, (1, 1, 2, 0), value=1.0), 8, [8]),
    "padding by reflection": (lambda m, x: F.pad(x, (1, 1, 2, 0), mode="reflect"), 8, [8]),
    "padding by the edge": (lambda m, x: F.pad(x, (1, 1, 2, 0), mode="replicate"), 8, [8]),
    "padding around": (lambda m, x: F.pad(x, (1, 1, 2, 0), mode="circular"), 8, [8]),
    "cropping": (lambda m, x: F.pad(x, (-1, -1, 0, 0)), 8, [8]),
    "reflection 1d": (lambda m, x: torch.ops.aten.reflection_pad1d(x.flatten(2), [1, 1]), 8, [8]),
    "replication 3d": (
        lambda m, x: torch.ops.aten.replication_pad3d(x[..., None], [0, 0, 1, 1, 1, 1]), 8, [8],
    ),
    "padding with channels": (lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 2)), 11, [8]),
    "windows of pixels": (lambda m, x: x.unfold(2, 3, 1).unfold(3, 3, 2).flatten(2), 8, [8]),
    "im2col": (lambda m, x: F.unfold(x, 3), 72, [8]),
    "im2col and back": (lambda m, x: F.fold(F.unfold(x, 2), (6, 6), 2), 8, [8]),
    "col2im": (lambda m, x: F.fold(x.flatten(2)[:, :, :25], (6, 6), 2), 2, [2]),
    "pixel shuffle": (lambda m, x: F.pixel_shuffle(x, 2), 2, [2]),
    "pixel unshuffle": (lambda m, x: F.pixel_unshuffle(x, 2), 32, [8]),
    "shuffled and back": (lambda m, x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) + x, 8, [2]),
    "channel shuffle": (lambda m, x: F.channel_shuffle(x, 4) * m.per_channel, 8, [2, 4]),
    "grid sample": (lambda m, x: F.grid_sample(x, _grid(x), align_corners=False), 8, [8]),
}  # fmt: skip


def _grid(x: torch.Tensor) -> torch.Tensor:
    theta = torch.tensor([[0.5, 0.1, 0.0], [0.0, 0.5, 0.1]]).expand(len(x), 2, 3)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


STUCK: dict[str, tuple[Body, int, str]] = {
    "channels padded by themselves": (
        lambda m, x: F.pad(x.flatten(2).mT, (1, 1), mode="circular").mT,
        10, "(padded from its own values, or cropped)",
    ),
    "channels in a sliding window": (
        lambda m, x: x.unfold(1, 3, 1).movedim(-1, 2), 6, "(seen through a sliding window)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_channels_pass_where_space_changes(name: str) -> None:
    body, out, groups = CASES[name]
    dense = probe(body, out)
    analysis = analyse(dense)
    assert channels(analysis) == 8
    assert sorted(groups_of(analysis).values()) == groups
    assert not any("no rule" in reason for reason in reasons(analysis))
    check(dense)


@pytest.mark.parametrize("name", STUCK)
def test_channels_treated_as_positions_stay_and_are_named(name: str) -> None:
    body, out, reason = STUCK[name]
    dense = probe(body, out)
    analysis = analyse(dense)
    assert channels(analysis) == 0
    assert any(reason in found for found in reasons(analysis, "conv.weight"))
    check(dense, vacuous=True)

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.analysis import heatmaps, mass_in_mask, similarity
from edgeprune.errors import UsageError


class Corners(nn.Module):
    """Class 0 is brightness at the upper left, class 1 darkness at the lower right."""

    def __init__(self, *, fixed: int = 0) -> None:
        super().__init__()
        self.fixed = fixed
        self.weight = nn.Parameter(torch.ones(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight)[:, 0]
        if self.fixed:
            y = y.reshape(self.fixed, 32, 32)
        return torch.stack([y[:, :8, :8].mean((1, 2)), -y[:, 24:, 24:].mean((1, 2))], 1)


IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.5
TARGETS = torch.tensor([0, 1, 0, 1, 0])


def _captured(count: int = 2, **options: int) -> ep.Captured:
    return ep.capture(Corners(**options), IMAGES[:count])


def test_maps_show_where_the_evidence_is_and_which_way_it_points() -> None:
    maps = heatmaps(_captured(), IMAGES, TARGETS)
    assert maps.shape == (5, 32, 32)
    corners = torch.zeros(2, 32, 32)
    corners[0, :10, :10] = corners[1, 22:, 22:] = 1
    assert (mass_in_mask(maps, corners[TARGETS])[TARGETS == 0] > 0.99).all()
    assert (maps[TARGETS == 1].sum((1, 2)) < 0).all()
    torch.testing.assert_close(maps.abs().amax((1, 2)), torch.ones(5))


def test_maps_are_smoothed_by_less_than_a_pixel() -> None:
    first = heatmaps(_captured(), IMAGES, TARGETS)[0]
    assert first[:8, 8].min() > 0
    assert first[:8, 12].abs().max() == 0


def test_maps_do_not_depend_on_the_batches() -> None:
    dense = _captured()
    whole = heatmaps(dense, IMAGES, TARGETS)
    torch.testing.assert_close(heatmaps(dense, IMAGES, TARGETS, batch_size=2), whole)
    fixed = ep.capture(Corners(fixed=2), IMAGES[:2])
    assert not fixed.dynamic_batch
    torch.testing.assert_close(heatmaps(fixed, IMAGES, TARGETS), whole)


def test_an_image_without_contrast_gives_an_empty_map() -> None:
    assert heatmaps(_captured(), torch.zeros(1, 3, 32, 32), TARGETS[:1]).abs().max() == 0


def test_similarity_is_a_rank_correlation() -> None:
    maps = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(similarity(maps, maps.exp()), torch.ones(3).double())
    torch.testing.assert_close(similarity(maps, -maps), -torch.ones(3).double())
    assert similarity(maps, torch.zeros(3, 6, 6)).tolist() == [0, 0, 0]


def test_mass_in_mask_counts_only_what_speaks_for_the_target() -> None:
    maps = torch.tensor([[[3.0, 1.0], [-4.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    masks = torch.tensor([[True, False], [True, False]]).expand(2, 2, 2)
    assert mass_in_mask(maps, masks).tolist() == [0.75, 0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="for 5 images"):
        heatmaps(_captured(), IMAGES, TARGETS[:2])
    with pytest.raises(UsageError, match="do not compare"):
        similarity(torch.zeros(1, 4, 4), torch.zeros(1, 5, 5))
    with pytest.raises(UsageError, match="resize the masks"):
        mass_in_mask(torch.zeros(1, 4, 4), torch.zeros(1, 5, 5))

from collections.abc import Callable
from functools import cache
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import ShapleyValues
from torch import Tensor, nn

from edgeprune.attribution import Taylor, attribute
from edgeprune.attribution.criterion import Batch, Explained, objective
from edgeprune.attribution.players import join_units
from edgeprune.attribution.shapley import Shapley
from edgeprune.capture import Captured, capture
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

from .models import CLASSES, images

CaptureOf = Callable[..., Captured]


class Small(nn.Module):
    """Two groups of four units that interact: a product of what two layers say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).amax((2, 3))
        return self.head(self.hidden(x).square())


class Shared(nn.Module):
    """All images share a weight that carries gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(3, 4, 3), nn.LSTM(40, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).relu().permute(0, 2, 1, 3).flatten(2)
        return self.head(self.lstm(rows)[0][:, -1])


class Fixed(Small):
    """Takes three images, no more and no fewer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(3, 3, 12, 12))


@cache
def _captured(kind: type[nn.Module]) -> Captured:
    torch.manual_seed(0)
    return capture(kind().eval(), images(3))


def _model(kind: type[nn.Module] = Small) -> GatedModel:
    return GatedModel(_captured(kind).clone())


def _batch(count: int = 3) -> Batch:
    labels = torch.arange(count) % CLASSES
    return Batch(images=images(count), labels=labels, multi_label=False)


def _worth(model: GatedModel, batch: Batch, gates: Tensor, explained: Explained) -> Tensor:
    with torch.no_grad():
        return objective(model(batch.images, gates), batch.labels, explained, False)


@pytest.mark.parametrize("kind", [Small, Shared, Fixed])
@pytest.mark.parametrize("explained", ["loss", "evidence", "margin"])
@pytest.mark.parametrize(("players", "samples"), [(4, 1), (4, 2), (3, 3), (1, 5), (4, 0), (2, 0)])
def test_values_sum_to_what_all_units_together_make(
    kind: type[nn.Module], explained: Explained, players: int, samples: int
) -> None:
    model, batch = _model(kind), _batch()
    criterion = Shapley(explained=explained, players=players, samples=samples)
    found = criterion.per_sample(model, 0)(batch)
    dense, empty = (
        _worth(model, batch, gates, explained)
        for gates in (model.ones(3), torch.zeros_like(model.ones(3)))
    )
    torch.testing.assert_close(found.sum(1), dense - empty, rtol=1e-4, atol=1e-5)


def test_exact_values_are_the_mean_over_all_orders() -> None:
    model, batch = _model(), _batch(2)
    players = join_units(model, Taylor(explained="loss").per_sample(model, 0)(batch), 2)
    assert players.count == 4
    expected = torch.zeros(2, model.total)
    for order in permutations(range(4)):
        gates = torch.zeros(2, model.total)
        before = _worth(model, batch, gates, "loss")
        for player in order:
            own = players.of_unit == player
            gates = gates + own
            now = _worth(model, batch, gates, "loss")
            expected += (now - before)[:, None] * own / 24
            before = now
    found = Shapley(players=2, samples=0).per_sample(model, 0)(batch)
    torch.testing.assert_close(found, expected * players.share, rtol=1e-4, atol=1e-6)


def test_exact_values_of_single_units_equal_captums() -> None:
    model, batch = _model(), _batch(2)
    few = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]])
    by_order = ShapleyValues(lambda gates: _worth(model, batch, gates, "evidence"))
    zeros = torch.zeros(2, model.total)
    expected = by_order.attribute(model.ones(2), baselines=zeros, feature_mask=few)
    taylor = torch.arange(8.0).repeat(2, 1)
    players = join_units(model, taylor, 2)
    assert torch.equal(players.of_unit, few.expand(2, -1))
    found = Shapley(explained="evidence", samples=0)._exact(model, batch, players, 1)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_sampled_values_of_eight_players_come_within_five_percent_of_exact_ones(seed: int) -> None:
    model, batch = _model(), _batch()
    exact = Shapley(players=4, samples=0).per_sample(model, 0)(batch)
    sampled = Shapley(players=4, samples=2048).per_sample(model, seed)(batch)
    one = Shapley(players=4, samples=1).per_sample(model, seed)(batch)
    assert float((sampled - exact).norm() / exact.norm()) < 0.05
    assert float((one - exact).norm() / exact.norm()) > 0.05


def test_images_have_the_same_values_in_any_batch_and_at_any_number_of_rows() -> None:
    model, batch = _model(), _batch(5)
    together = Shapley(players=3, rows=40).per_sample(model, 2)(batch)
    singly = Shapley(players=3, rows=1).per_sample(model, 2)
    alone = torch.cat([singly(batch.part(index, 1)) for index in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_the_seed_alone_decides_on_the_orders() -> None:
    model, batch = _model(), _batch()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, same, other = (Shapley(samples=2).per_sample(model, s)(batch) for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_second_order_is_the_reverse_of_the_one_before() -> None:
    # Of two players, an order and its reverse are all orders.
    model, batch = _model(), _batch()
    pair = Shapley(players=1, samples=2).per_sample(model, 0)(batch)
    exact = Shapley(players=1, samples=0).per_sample(model, 0)(batch)
    torch.testing.assert_close(pair, exact, rtol=1e-4, atol=1e-6)


def test_players_are_units_of_one_group_next_to_each_other_by_score(capture_of: CaptureOf) -> None:
    model = GatedModel(capture_of("Transformer"))
    scores = torch.randn(3, model.total, generator=torch.Generator().manual_seed(0))
    players = join_units(model, scores, 5)
    assert players.count == sum(min(5, group.size) for group in model.analysis.groups)
    first = 0
    owners, values = model.by_group(players.of_unit), model.by_group(scores)
    for group in model.analysis.groups:
        for owner, value in zip(owners[group.name], values[group.name], strict=True):
            own = set(owner.tolist())
            assert min(own) == first
            ordered = owner[value.argsort()]
            assert ordered.tolist() == sorted(owner.tolist())
            counts = torch.bincount(owner)[first:]
            assert len(own) == min(5, group.size)
            assert counts.max() - counts.min() <= 1
        first += min(5, group.size)
    for image in range(3):
        sums = torch.zeros(players.count).index_add(0, players.of_unit[image], players.share[image])
        torch.testing.assert_close(sums, torch.ones(players.count))


def test_units_share_by_their_taylor_score_and_alike_where_there_is_none() -> None:
    model = _model()
    scores = torch.tensor([[3.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    players = join_units(model, scores, 1)
    assert players.share.tolist() == [[0.75, 0.25, 0, 0, 0.25, 0.25, 0.25, 0.25]]


def test_a_unit_that_nobody_listens_to_has_no_value() -> None:
    model, batch = _model(), _batch()
    model.module.get_parameter("hidden.weight").data[:, 2] = 0
    found = attribute(model.captured, [(batch.images, batch.labels)], Shapley(players=2))
    assert found["conv"][2] == 0
    assert found["conv"].count_nonzero() == 3


def test_findings_can_be_shared_out() -> None:
    model = _model()
    labels = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    batch = Batch(images=images(3), labels=labels, multi_label=True)
    found = Shapley().per_sample(model, 0)(batch)
    with torch.no_grad():
        dense, empty = (
            objective(model(batch.images, gates), labels, "loss", True)
            for gates in (model.ones(3), torch.zeros_like(model.ones(3)))
        )
    torch.testing.assert_close(found.sum(1), dense - empty, rtol=1e-4, atol=1e-5)


def test_settings_without_sense_are_refused(capture_of: CaptureOf) -> None:
    with pytest.raises(UsageError, match="0 players per group share nothing"):
        Shapley(players=0)
    with pytest.raises(UsageError, match="-1 samples: use 1 or more, or 0 for exact values"):
        Shapley(samples=-1)
    with pytest.raises(UsageError, match="0 rows run no image"):
        Shapley(rows=0)
    with pytest.raises(UsageError, match="explained is 'x': use loss, evidence or margin"):
        Shapley(explained="x")  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"15 players need 2\^15 forwards; they are for at most 10"
    ):
        Shapley(players=5, samples=0).per_sample(GatedModel(capture_of("Chain")), 0)

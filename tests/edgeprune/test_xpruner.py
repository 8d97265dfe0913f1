from collections.abc import Mapping
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import attribute, find_criterion
from edgeprune.attribution.criterion import Batch, Learned
from edgeprune.attribution.xpruner import XPruner
from edgeprune.attribution.xpruner.images import Images, held
from edgeprune.attribution.xpruner.masks import shares
from edgeprune.attribution.xpruner.rates import (
    Places,
    learn_thresholds,
    relative,
    stand,
    unit_prices,
)
from edgeprune.errors import DataError, EdgepruneError, UsageError
from edgeprune.gates import GatedModel

CLASSES = 4
SIZE = 10
SHORT = XPruner(epochs=3, rate_epochs=3)
DEAD = {"conv1": [1, 5], "conv2": [0, 7, 9]}


class Net(nn.Module):
    """Three convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 20, 3, padding=1), nn.BatchNorm2d(20)
        self.conv3, self.bn3 = nn.Conv2d(20, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        return self.head(self.drop(x.amax((2, 3))))


class OneEach(nn.Module):
    """A unit per class, which reads the channel of its class and nothing else does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(CLASSES, CLASSES, 1), nn.Linear(CLASSES, CLASSES)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(CLASSES)[:, :, None, None])
            self.head.weight.copy_(4 * torch.eye(CLASSES))
            self.conv.bias.zero_()  # type: ignore[union-attr]
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


class SharedPositions(nn.Module):
    """Positions are computed once for all images, so images share what carries gates."""

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = nn.Buffer(torch.rand(4, 2))
        self.embed, self.head = nn.Conv2d(1, 6, 5, 5), nn.Linear(6, CLASSES)
        self.fc1, self.fc2 = nn.Linear(2, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(F.gelu(x + self.fc2(F.relu(self.fc1(self.coordinates)))).mean(1))


class FixedBatch(nn.Module):
    """A model whose code writes down how many images it takes."""

    def __init__(self, net: Net, count: int) -> None:
        super().__init__()
        self.net, self.count = net, count

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).reshape(self.count, CLASSES)


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw noise with a stroke whose direction is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
    labels = torch.arange(count) % CLASSES
    starts = torch.randint(0, SIZE - 5, (count, 2), generator=generator)
    moves = torch.tensor([(0, 1), (1, 0), (1, 1), (-1, 1)])[labels]
    for image, (row, column), (down, right) in zip(images, starts, moves, strict=True):
        first = row + 5 if down < 0 else row
        for step in range(6):
            image[0, first + step * down, column + step * right] += 2.5
    return images, labels


def held_out() -> tuple[Tensor, Tensor]:
    return stripes(200, seed=7)


@cache
def trained(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = Net()
    for name, units in DEAD.items():
        _silence(net, name, units)
    images, labels = stripes(400, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            for name, units in DEAD.items():
                _silence(net, name, units)
    return net.eval()


@torch.no_grad()
def _silence(net: Net, name: str, units: list[int]) -> None:
    """Plant dead units: what they say is read with weight 0."""
    {"conv1": net.conv2, "conv2": net.conv3}[name].weight[:, units] = 0


def captured(seed: int = 0) -> ep.Captured:
    return ep.capture(trained(seed), torch.zeros(2, 1, SIZE, SIZE))


def batch(count: int = 48, seed: int = 3) -> Batch:
    images, labels = stripes(count, seed)
    return Batch(images=images, labels=labels, multi_label=False)


def findings(count: int = 48) -> Batch:
    images, labels = stripes(count, 3)
    found = F.one_hot(labels, CLASSES).float()
    found[::5, 0] = 1  # several at once
    found[::7] = 0  # none
    return Batch(images=images, labels=found, multi_label=True)


def learn(model: GatedModel, criterion: XPruner, *batches: Batch, seed: int = 0) -> Learned:
    return criterion.learn(model, batches, classes=CLASSES, seed=seed)


def accuracy_at(dense: ep.Captured, scores: ep.Scores, keep: float) -> float:
    plan = ep.make_plan(dense, scores, ep.Budget(keep=keep), ranking="global")
    images, labels = held_out()
    with torch.no_grad():
        logits = ep.cut(dense, plan).module(images)
    return float((logits.argmax(1) == labels).float().mean())


def shares_kept(model: GatedModel, per_unit: Tensor) -> Mapping[str, float]:
    kept = model.by_group((per_unit >= 1).double())
    return {name: float(part.mean()) for name, part in kept.items()}


def test_masks_leave_1_and_differ_between_classes() -> None:
    learned = learn(GatedModel(captured()), SHORT, batch())
    assert learned.per_class.shape == (CLASSES, 48)
    assert learned.per_unit.shape == (48,)
    assert ((learned.per_class - 1).abs() > 1e-3).all()
    assert (learned.per_class.std(0) > 1e-3).any()


def test_what_was_learned_needs_no_gradient() -> None:
    learned = learn(GatedModel(captured()), SHORT, batch())
    assert not learned.per_unit.requires_grad
    assert not learned.per_class.requires_grad


def test_the_network_stays_as_it_is_bit_for_bit() -> None:
    dense = captured()
    before = {name: tensor.clone() for name, tensor in dense.module.state_dict().items()}
    learn(GatedModel(dense), SHORT, batch())
    after = dense.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in dense.module.parameters())


def test_what_trains_and_the_mode_are_restored() -> None:
    dense = captured()
    dense.module.get_parameter("conv1.weight").requires_grad_(False)
    before = {name: p.requires_grad for name, p in dense.module.named_parameters()}
    dense.module.train()
    learn(GatedModel(dense), SHORT, batch())
    assert dense.module.training
    assert {name: p.requires_grad for name, p in dense.module.named_parameters()} == before


def test_a_model_in_training_mode_is_scored_as_in_evaluation() -> None:
    evaluating, training = captured(), captured()
    training.module.train()
    torch.testing.assert_close(
        learn(GatedModel(training), SHORT, batch()).per_unit,
        learn(GatedModel(evaluating), SHORT, batch()).per_unit,
        rtol=0,
        atol=0,
    )


def test_the_seed_decides_everything() -> None:
    model = GatedModel(captured())
    first, again, other = (learn(model, SHORT, batch(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.per_unit, again.per_unit)
    assert torch.equal(first.per_class, again.per_class)
    assert not torch.equal(first.per_unit, other.per_unit)


def test_the_random_numbers_of_the_caller_are_left_alone() -> None:
    model = GatedModel(captured())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    learn(model, SHORT, batch())
    assert torch.equal(torch.rand(3), expected)


def test_dead_units_score_lowest_of_all() -> None:
    model = GatedModel(captured())
    scores = model.by_group(learn(model, SHORT, batch()).per_unit)
    for name, units in DEAD.items():
        assert (scores[name][units] == 0).all()
    assert sum(int((part <= 0).sum()) for part in scores.values()) == 5


def test_a_group_of_dead_units_scores_0_and_not_infinity() -> None:
    net = Net()
    _silence(net, "conv1", [*range(12)])
    model = GatedModel(ep.capture(net.eval(), torch.zeros(2, 1, SIZE, SIZE)))
    scores = model.by_group(learn(model, SHORT, batch()).per_unit)
    assert (scores["conv1"] == 0).all()
    assert scores["conv2"].isfinite().all()
    assert scores["conv2"].max() >= 1


def test_a_class_without_images_has_no_mask() -> None:
    images, _ = stripes(12, 3)
    own = Batch(images=images, labels=torch.arange(12) % 2, multi_label=False)
    learned = learn(GatedModel(captured()), SHORT, own)
    assert (learned.per_class[2:] == 0).all()
    assert learned.per_class[:2].max() > 0


def test_a_unit_that_one_class_needs_has_its_largest_mask_for_that_class() -> None:
    labels = torch.arange(40) % CLASSES
    images = F.one_hot(labels, CLASSES).float()[:, :, None, None].expand(-1, -1, 3, 3)
    model = GatedModel(ep.capture(OneEach(), images[:2]))
    own = Batch(images=images, labels=labels, multi_label=False)
    learned = learn(model, XPruner(batch_size=8), own)
    assert learned.per_class.argmax(0).tolist() == [*range(CLASSES)]


def test_smoothness_brings_the_classes_together() -> None:
    model = GatedModel(captured())
    apart, together = (
        learn(model, XPruner(epochs=8, rate_epochs=1, smooth=smooth), batch()).per_class.std(0)
        for smooth in (0.0, 100.0)
    )
    assert together.mean() < 0.5 * apart.mean()


def test_sparsity_closes_masks() -> None:
    model = GatedModel(captured())
    free, pulled = (
        learn(model, XPruner(epochs=8, rate_epochs=1, sparse=sparse), batch()).per_class.mean()
        for sparse in (0.0, 1.0)
    )
    assert pulled < 0.7 * free


@pytest.mark.parametrize("price", ["units", "macs"])
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_what_scores_1_or_more_costs_what_the_budget_allows(price: str, budget: float) -> None:
    model = GatedModel(captured())
    learned = learn(model, XPruner(epochs=4, budget=budget, price=price), batch())  # type: ignore[arg-type]
    kept = unit_prices(model, price)[learned.per_unit >= 1].sum()  # type: ignore[arg-type]
    assert budget - 0.04 < float(kept) <= budget + 1e-5


def test_ranking_all_units_together_removes_what_the_learned_rates_say() -> None:
    dense = captured()
    scores = attribute(dense, [stripes(48, 3)], XPruner(epochs=4))
    plan = ep.make_plan(dense, scores, ep.Budget(keep=0.5), ranking="global")
    learned = shares_kept(GatedModel(dense), torch.cat([*scores.values.values()]))
    for group in plan.groups:
        assert abs(len(group.kept) / group.size - learned[group.name]) <= 0.02 + 1 / group.size


def test_rates_differ_between_groups_and_no_group_is_emptied() -> None:
    model = GatedModel(captured())
    rates = shares_kept(model, learn(model, XPruner(budget=0.25), batch()).per_unit)
    assert max(rates.values()) - min(rates.values()) > 0.1
    assert min(rates.values()) > 0


def _misled() -> tuple[GatedModel, Places, XPruner]:
    """Order units by masks, but let one group's scale say that it matters least."""
    model, settings = GatedModel(captured()), XPruner(budget=0.5, rate_lr=0.03)
    scores = learn(model, settings, batch()).per_class.sum(0)
    model.by_group(scores)["conv3"].mul_(0.01)
    return model, stand(model, scores, settings), settings


def _thresholds(model: GatedModel, places: Places, settings: XPruner) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = Images(batches=[batch()], size=16)
    with held(model.module):
        return learn_thresholds(
            model, images, places, settings, generator=generator, stepped=lambda: None
        )


def test_learning_mends_rates_that_the_scale_of_masks_has_set_wrong() -> None:
    model, places, settings = _misled()
    learned = places.on_budget(_thresholds(model, places, settings))
    before = places.on_budget(places.limited(places.together))
    own = batch()

    def loss(kept: Tensor) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(own.images, kept.float()[None]), own.labels))

    assert loss(places.kept(learned)) < 0.8 * loss(places.kept(before))


def test_learning_itself_ends_near_the_budget() -> None:
    model, places, settings = _misled()
    kept = places.kept(_thresholds(model, places, settings))
    assert abs(float(kept.float().mean()) - 0.5) < 0.06


def test_a_budget_below_one_unit_for_each_group_leaves_each_its_best() -> None:
    model = GatedModel(captured())
    scores = torch.rand(48, generator=torch.Generator().manual_seed(0))
    places = stand(model, scores, XPruner(budget=0.01))
    kept = model.by_group(places.kept(places.on_budget(places.limited(places.together))))
    for name, own in model.by_group(scores).items():
        assert kept[name].nonzero().flatten().tolist() == [int(own.argmax())]


def test_scores_are_relative_to_what_their_group_is_cut_at() -> None:
    model = GatedModel(ep.capture(OneEach(), torch.rand(2, CLASSES, 3, 3)))
    scores = torch.tensor([4.0, 1.0, 3.0, 2.0])
    kept = torch.tensor([True, False, True, False])
    torch.testing.assert_close(relative(model, scores, kept), scores / 2.5)
    torch.testing.assert_close(relative(model, scores, kept | True), scores / 0.5)


def test_of_equal_scores_only_those_kept_reach_1() -> None:
    model = GatedModel(ep.capture(OneEach(), torch.rand(2, CLASSES, 3, 3)))
    kept = torch.tensor([True, False, True, False])
    assert torch.equal(relative(model, torch.full((4,), 2.0), kept) >= 1, kept)


def test_a_unit_costs_its_own_multiply_accumulates_and_those_of_its_readers() -> None:
    model = GatedModel(captured())
    by_units, by_macs = (model.by_group(unit_prices(model, p)) for p in ("units", "macs"))
    own = {
        "conv1": 9 * 100 + 20 * 9 * 25,
        "conv2": 12 * 9 * 25 + 16 * 9 * 25,
        "conv3": 20 * 9 * 25 + CLASSES,
    }
    for name, macs in own.items():
        expected = macs / (12 * own["conv1"] + 20 * own["conv2"] + 16 * own["conv3"])
        torch.testing.assert_close(by_macs[name], torch.full_like(by_macs[name], expected))
        torch.testing.assert_close(by_units[name], torch.full_like(by_units[name], 1 / 48))


@pytest.mark.parametrize("seed", [0, 1])
def test_half_the_network_keeps_more_than_chance_does(seed: int) -> None:
    dense = captured(seed)
    images, labels = held_out()
    with torch.no_grad():
        whole = float((dense.module(images).argmax(1) == labels).float().mean())
    assert whole > 0.9
    own = accuracy_at(dense, attribute(dense, [stripes(48, 3)], XPruner()), 0.5)
    chance = [accuracy_at(dense, attribute(dense, [], "random", seed=s), 0.5) for s in range(5)]
    assert own > sum(chance) / len(chance) + 0.15
    assert own > max(chance)


def test_an_image_takes_the_mean_of_its_findings_masks_or_the_mask_for_none() -> None:
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = Batch(images=torch.zeros(3, 1, 2, 2), labels=labels, multi_label=True)
    expected = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert torch.equal(shares(found, 3), expected)


def test_findings_are_learned_with_a_mask_for_each() -> None:
    learned = learn(GatedModel(captured()), SHORT, findings())
    assert learned.per_class.shape == (CLASSES, 48)
    assert ((learned.per_class - 1).abs() > 1e-3).all()
    assert learned.per_unit.isfinite().all()


def test_a_step_draws_from_all_batches() -> None:
    images = torch.arange(12.0).reshape(12, 1, 1, 1)
    sorted_by_class = [
        Batch(images=part, labels=part.long().flatten() // 4, multi_label=False)
        for part in images.split(4)
    ]
    pool = Images(batches=sorted_by_class, size=4)
    steps = [*pool.epoch(torch.Generator().manual_seed(0))]
    assert torch.equal(torch.cat([b.images for b in steps]).flatten().sort()[0], images.flatten())
    assert all(torch.equal(b.images.long().flatten() // 4, b.labels) for b in steps)
    assert max(len(b.labels.unique()) for b in steps) > 1


def test_a_model_of_fixed_batch_learns_the_same() -> None:
    fixed = ep.capture(FixedBatch(trained(), 3), torch.zeros(3, 1, SIZE, SIZE))
    assert not fixed.dynamic_batch
    own = batch(40)  # a step's last images do not fill a batch of 3
    expected, found = (
        learn(GatedModel(dense), SHORT, own).per_class for dense in (captured(), fixed)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_images_that_share_what_carries_gates_are_learned_from() -> None:
    torch.manual_seed(0)
    model = GatedModel(ep.capture(SharedPositions(), torch.zeros(2, 1, SIZE, SIZE)))
    assert not model.by_sample
    learned = learn(model, SHORT, batch(16))
    assert learned.per_unit.isfinite().all()
    assert ((learned.per_class - 1).abs() > 1e-3).all()


def test_half_precision_changes_little() -> None:
    model = GatedModel(captured())
    full = learn(model, SHORT, batch())
    with torch.autocast("cpu", torch.bfloat16):
        half = learn(model, SHORT, batch())
    torch.testing.assert_close(half.per_class, full.per_class, rtol=0, atol=0.02)


def test_progress_rises_to_the_number_of_images() -> None:
    seen: list[int] = []
    SHORT.learn(GatedModel(captured()), [batch()], classes=CLASSES, seed=0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 48
    assert seen[len(seen) // 2] < 48


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="there are none"):
        learn(GatedModel(captured()), SHORT)


def test_a_loss_that_is_not_a_number_stops_the_learning_and_says_so() -> None:
    own = batch(8)
    spoilt = Batch(images=own.images * float("nan"), labels=own.labels, multi_label=False)
    with pytest.raises(EdgepruneError, match="loss is nan while it learns masks"):
        learn(GatedModel(captured()), SHORT, spoilt)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0: give a whole number of 1 or more"),
        ({"rate_epochs": 1.5}, "rate_epochs is 1.5: give a whole number"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"lr": 0.0}, "lr is 0.0: give a number above 0"),
        ({"rate_lr": float("nan")}, "rate_lr is nan: give a number"),
        ({"smooth": -0.1}, "smooth is -0.1: give 0 or more"),
        ({"sparse": float("inf")}, "sparse is inf"),
        ({"budget": 1.0}, "budget is 1.0: give a share above 0 and below 1"),
        ({"price": "euros"}, "price is 'euros': give one of units, macs"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        XPruner(**settings)  # type: ignore[arg-type]


def test_settings_are_given_as_text() -> None:
    found = find_criterion("xpruner:budget=0.3,price=macs,epochs=2")
    assert found == XPruner(budget=0.3, price="macs", epochs=2)


def test_statistics_over_masked_units_stay_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)
    )
    images, labels = torch.randn(24, 3, 2, 2), torch.arange(24) % 3
    dense = ep.capture(model, images[:2])
    scores = attribute(dense, [(images, labels)], XPruner(epochs=60, lr=0.2, sparse=4.0))
    assert all(values.isfinite().all() for values in scores.values.values())
    assert scores.per_class is not None
    assert all((values >= 0).all() for values in scores.per_class.values())

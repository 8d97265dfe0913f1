"""What a unit responds to, and what a model does without it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.analysis.removal import attributions, removal
from edgeprune.analysis.responses import find_reading, responses, unit_maps
from edgeprune.attribution import Taylor
from edgeprune.attribution.criterion import Batch
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel
from edgeprune.pipeline.unit_evidence import alike, find_unit
from edgeprune.pipeline.unit_images import spread

from .models import CLASSES, TINY, images, plan_of

CaptureOf = Callable[..., Captured]


class Corner(nn.Module):
    """Unit 0 sees the upper left quarter, unit 1 everything, unit 2 nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 3, 1)
        self.mix = nn.Conv2d(3, 4, 4, 4)
        self.head = nn.Linear(4, CLASSES)
        self.register_buffer("mask", torch.zeros(1, 3, 12, 12))
        self.mask[:, 0, :6, :6] = 1
        self.mask[:, 1] = 1
        with torch.no_grad():
            self.see.weight.fill_(1 / 3)
            self.see.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(torch.relu(self.see(x) * self.mask)).mean((2, 3)))


@pytest.fixture(scope="module")
def corner() -> GatedModel:
    torch.manual_seed(0)
    return GatedModel(capture(Corner().eval(), images(2)))


def group_of(model: GatedModel, name: str):  # noqa: ANN201 - a ChannelGroup
    return next(group for group in model.analysis.groups if group.name == name)


def gate_of(model: GatedModel, name: str, unit: int) -> int:
    return int(model.by_group(torch.arange(model.total))[name][unit])


def labelled(count: int) -> Batch:
    labels = torch.arange(count) % CLASSES
    return Batch(images=images(count), labels=labels, multi_label=False)


# --- responses ------------------------------------------------------------------------


def test_a_response_is_the_units_largest_value_where_it_is_read(corner: GatedModel) -> None:
    given = images(5)
    grey = given.mean(1).clamp_min(0)
    found = responses(corner, find_reading(corner, group_of(corner, "see")), given)
    expected = [grey[:, :6, :6].amax((1, 2)), grey.amax((1, 2)), torch.zeros(5)]
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_a_map_is_the_units_own_value_in_its_place(corner: GatedModel) -> None:
    given = images(4)
    reading = find_reading(corner, group_of(corner, "see"))
    found, how = unit_maps(corner, reading, 0, given)
    grey = given.mean(1).clamp_min(0)
    grey[:, 6:] = 0
    grey[:, :, 6:] = 0
    torch.testing.assert_close(found, grey / grey.amax((1, 2), keepdim=True))
    assert how == "the unit's own values"


def test_a_unit_that_nothing_drives_has_an_empty_map(corner: GatedModel) -> None:
    found, _ = unit_maps(corner, find_reading(corner, group_of(corner, "see")), 2, images(2))
    assert torch.equal(found, torch.zeros_like(found))


def test_a_unit_without_place_is_traced_to_the_pixels() -> None:
    class Quarter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(3 * 36, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.hidden(x[:, :, :6, :6].flatten(1))))

    torch.manual_seed(0)
    model = GatedModel(capture(Quarter().eval(), images(2)))
    reading = find_reading(model, group_of(model, "hidden"))
    found, how = unit_maps(model, reading, 1, images(6))
    driven = found[responses(model, reading, images(6))[:, 1] > 0]
    assert "integrated gradients" in how
    assert found.shape == (6, 12, 12)
    assert len(driven)
    assert torch.equal(driven[:, 8:], torch.zeros_like(driven[:, 8:]))
    assert bool((driven.abs().amax((1, 2)) == 1).all())


@pytest.mark.parametrize("name", TINY)
def test_every_group_of_every_model_responds_image_by_image(
    name: str, capture_of: CaptureOf
) -> None:
    model, given = GatedModel(capture_of(name)), images(5)
    for group in model.analysis.groups:
        reading = find_reading(model, group)
        together = responses(model, reading, given)
        assert together.shape == (5, group.size)
        alone = torch.cat([responses(model, reading, image[None]) for image in given])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        maps, _ = unit_maps(model, reading, group.size - 1, given)
        assert len(maps) == 5
        assert bool(maps.isfinite().all())


@pytest.mark.parametrize("name", ["Transformer", "MergedHeads"])
def test_heads_respond_with_their_mean_magnitude(name: str, capture_of: CaptureOf) -> None:
    model = GatedModel(capture_of(name))
    heads = next(group for group in model.analysis.groups if group.kind == "heads")
    found = responses(model, find_reading(model, heads), images(3))
    assert find_reading(model, heads).averaged
    assert bool((found > 0).all())


def test_a_model_of_fixed_batch_responds_as_one_of_any(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    fixed = Captured(module=dense.module, sample=dense.sample, dynamic_batch=False)
    found = []
    for model in (GatedModel(dense), GatedModel(fixed)):
        reading = find_reading(model, group_of(model, "conv2"))
        found.append(responses(model, reading, images(5)))
    torch.testing.assert_close(found[0], found[1])


# --- removal --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Chain", "Residual", "Transformer"])
def test_removal_says_what_cutting_the_unit_alone_does(name: str, capture_of: CaptureOf) -> None:
    dense = capture_of(name)
    model, batch = GatedModel(dense), labelled(12)
    group = model.analysis.groups[0]
    keep = [unit for unit in range(group.size) if unit != 1]
    slim = cut(dense, plan_of(dense, {group.name: keep}))
    with torch.no_grad():
        before, after = dense.module(batch.images), slim.module(batch.images)
    losses = [
        nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        for logits in (before, after)
    ]
    found = removal(model, gate_of(model, group.name, 1), batch)
    torch.testing.assert_close(found.loss, losses[1] - losses[0], rtol=1e-3, atol=1e-5)
    assert torch.equal(found.changed, before.argmax(1) != after.argmax(1))


def test_of_findings_any_that_changes_counts(capture_of: CaptureOf) -> None:
    model = GatedModel(capture_of("Chain"))
    labels = (torch.arange(8 * CLASSES).reshape(8, CLASSES) % 2).float()
    batch = Batch(images=images(8), labels=labels, multi_label=True)
    found = removal(model, gate_of(model, "hidden", 0), batch)
    assert found.changed.shape == found.loss.shape == (8,)
    without = model.ones()
    without[:, gate_of(model, "hidden", 0)] = 0
    with torch.no_grad():
        differ = (model(batch.images, model.ones()) > 0) != (model(batch.images, without) > 0)
    assert torch.equal(found.changed, differ.any(1))


def test_attributions_are_those_of_the_criterion(capture_of: CaptureOf) -> None:
    model, batch = GatedModel(capture_of("Chain")), labelled(6)
    attribute = Taylor().per_sample(model, 0)
    slot = gate_of(model, "conv2", 3)
    torch.testing.assert_close(
        attributions(model, attribute, slot, batch), attribute(batch)[:, slot]
    )


# --- names, images, rivals ------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("conv1", "give GROUP:INDEX, as 'conv1:0'"),
        ("conv1:x", "names no unit"),
        ("conv1:-1", "names no unit"),
        ("conv1:8", "has 8 units, numbered from 0 to 7; there is no unit 8"),
        ("conv3:1", "no channel group 'conv3': did you mean 'conv"),
        ("", "names no unit"),
    ],
)
def test_a_unit_that_is_none_is_refused(unit: str, message: str, capture_of: CaptureOf) -> None:
    groups = GatedModel(capture_of("Chain")).analysis.groups
    with pytest.raises(UsageError, match=message):
        find_unit(groups, unit)


def test_names_of_groups_may_hold_colons(capture_of: CaptureOf) -> None:
    groups = GatedModel(capture_of("Transformer")).analysis.groups
    heads = next(group for group in groups if group.kind == "heads")
    assert ":" in heads.name
    assert find_unit(groups, f"{heads.name}:2") == (heads, 2)


def test_classes_take_turns_among_the_images() -> None:
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    chosen = spread(labels, 30, seed=0)
    counts = np.bincount(labels[chosen], minlength=3).tolist()
    assert counts == [20, 8, 2]
    assert chosen == sorted(set(chosen)) == spread(labels, 30, seed=0)
    assert spread(labels, 30, seed=1) != chosen
    assert spread(labels, 1000, seed=0) == list(range(100))


def test_rare_findings_take_turns_too() -> None:
    labels = np.zeros((60, 3), np.float32)
    labels[:40, 0] = 1
    labels[:2, 1] = 1
    chosen = spread(labels, 6, seed=0)
    assert {0, 1} <= set(chosen)
    assert any(row >= 40 for row in chosen)


def test_units_that_say_the_same_are_alike_and_constant_ones_are_not_compared() -> None:
    first = torch.rand(20, generator=torch.Generator().manual_seed(0))
    table = torch.stack([first, 3 * first + 1, -first, torch.ones(20)], 1)
    same, twin, opposite, constant = alike(table, 0)
    assert [same, twin, opposite] == pytest.approx([1, 1, -1])
    assert constant is None
    assert alike(table, 3) == [None] * 4

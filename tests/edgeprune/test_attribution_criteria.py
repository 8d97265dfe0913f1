from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import CRITERIA, Integrated, Lrp, Taylor, attribute
from edgeprune.attribution.criterion import Batch, objective
from edgeprune.errors import DataError, EdgepruneError, UsageError
from edgeprune.gates import GatedModel

BY_IMAGES = ("taylor", "ig", "lrp", "shapley", "sensitivity", "activation")


class Residual(nn.Module):
    """Convolutions with batch normalisation, a residual stream and squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.reduce, self.expand = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        y = F.silu(self.bn1(self.conv1(x)))
        gate = self.expand(F.relu(self.reduce(y.mean((2, 3), keepdim=True))))
        x = F.relu(x + self.bn2(self.conv2(y * gate.sigmoid())))
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """One block of a vision transformer with projections of their own for q, k and v."""

    def __init__(self, *, tokens_first: bool = False) -> None:
        super().__init__()
        self.tokens_first = tokens_first
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.proj = nn.Linear(16, 16)
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2)
        # (L, N, C) as in nn.MultiheadAttention by default, or (N, L, C).
        x = x.permute(2, 0, 1) if self.tokens_first else x.transpose(1, 2)
        if not self.tokens_first:
            x = x + self._attention(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(0 if self.tokens_first else 1))

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Deep(nn.Sequential):
    """Layers one after the other, so that the path from empty to dense is far from straight."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        )


class Positions(nn.Module):
    """Positions are computed by a network of their own, once for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = nn.Buffer(torch.rand(4, 2))
        self.embed, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3)
        self.fc1, self.fc2 = nn.Linear(2, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = F.gelu(x + self.fc2(F.relu(self.fc1(self.coordinates))))
        return self.head(x.mean(1))


class FixedBatch(nn.Module):
    """A model whose code writes down how many images it takes."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.head(x.reshape(self.count, 6))


def _trained_statistics(model: nn.Module) -> nn.Module:
    """Move batch normalisation away from what it is at first."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name != "num_batches_tracked":
                    nn.init.uniform_(tensor, 0.4, 1.2)
    return model


def _captured(kind: type[nn.Module], size: int = 8, **options: bool) -> ep.Captured:
    torch.manual_seed(0)
    return ep.capture(_trained_statistics(kind(**options)), torch.randn(2, 3, size, size))


def _batch(count: int = 4, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images, torch.arange(count) % 3


MODELS = (Residual, Transformer)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_every_group_gets_finite_scores_that_differ(kind: type[nn.Module], criterion: str) -> None:
    dense = _captured(kind)
    scores = attribute(dense, [_batch()], criterion)
    assert [*scores.values] == [group.name for group in ep.channel_groups(dense)]
    for group in ep.channel_groups(dense):
        values = scores[group.name]
        assert values.shape == (group.size,)
        assert values.dtype == torch.float64
        assert values.isfinite().all()
        assert values.max() > 0, group.name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("explained", ["loss", "evidence", "margin"])
def test_taylor_is_the_gate_times_its_gradient_by_hand(
    kind: type[nn.Module], explained: str
) -> None:
    dense = _captured(kind)
    images, labels = _batch()
    model = GatedModel(dense)
    expected = torch.zeros(model.total, dtype=torch.float64)
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        gates = model.ones().requires_grad_()
        logits = model(image, gates)
        own, others = logits[0, label].sum(), logits[0][torch.arange(3) != label]
        targets = {
            "loss": F.cross_entropy(logits, label),
            "evidence": own,
            "margin": own - others.max(),
        }
        (gradient,) = torch.autograd.grad(targets[explained], gates)
        expected += gradient[0].abs().double()
    scores = attribute(dense, [(images, labels)], Taylor(explained=explained))  # type: ignore[arg-type]
    found = torch.cat([*scores.values.values()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_scores_do_not_depend_on_the_batches(kind: type[nn.Module], criterion: str) -> None:
    dense = _captured(kind)
    images, labels = _batch(5)
    together = attribute(dense, [(images, labels)], criterion)
    singly = attribute(dense, zip(images.split(1), labels.split(1), strict=True), criterion)
    for name, values in together.values.items():
        torch.testing.assert_close(values, singly[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("criterion", ["taylor", "lrp"])
def test_images_need_not_be_outermost_inside_the_model(criterion: str) -> None:
    # Of 4 tokens, 2 images divide their number, so that sizes do not tell them apart.
    images, labels = _batch(2)
    dense = _captured(Transformer, tokens_first=True)
    together = attribute(dense, [(images, labels)], criterion)
    singly = attribute(dense, zip(images.split(1), labels.split(1), strict=True), criterion)
    for name, values in together.values.items():
        torch.testing.assert_close(values, singly[name], rtol=1e-4, atol=1e-8)


def test_a_model_that_computes_something_once_for_all_images_is_scored_one_by_one() -> None:
    images, labels = _batch(3)
    dense = _captured(Positions)
    assert not GatedModel(dense).by_sample
    together = attribute(dense, [(images, labels)])
    singly = attribute(dense, zip(images.split(1), labels.split(1), strict=True))
    for name, values in together.values.items():
        torch.testing.assert_close(values, singly[name], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("criterion", ["taylor", "shapley", "sensitivity", "activation"])
def test_a_model_of_fixed_batch_scores_any_number_of_images(criterion: str) -> None:
    images, labels = _batch(5)
    torch.manual_seed(3)
    model = FixedBatch(2)
    fixed = ep.capture(model, images[:2])
    assert not fixed.dynamic_batch
    model.count = 5
    whole = ep.capture(model, images)
    parts = attribute(fixed, [(images, labels)], criterion)
    for name, values in attribute(whole, [(images, labels)], criterion).values.items():
        torch.testing.assert_close(parts[name], values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("criterion", [name for name in BY_IMAGES if name != "activation"])
def test_a_unit_that_nobody_listens_to_scores_zero_and_lowest(criterion: str) -> None:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        model.conv2.weight[:, 5] = 0
        model.expand.weight[:, 2] = 0
    # Channel 5 still reaches squeeze-excite's first layer, and has to be silent there as well.
    model.reduce.weight.data[:, 5] = 0
    dense = ep.capture(model, torch.randn(2, 3, 8, 8))
    scores = attribute(dense, [_batch(12)], criterion)
    assert scores["conv1"][5] == 0
    assert (scores["conv1"] == 0).sum() == 1
    assert scores["reduce"][2] == 0
    assert scores["reduce"].max() > 0


@pytest.mark.parametrize("kind", [Deep, Transformer])
@pytest.mark.parametrize("explained", ["evidence", "loss"])
def test_ig_is_complete_within_one_percent_and_not_by_accident(
    kind: type[nn.Module], explained: Literal["evidence", "loss"]
) -> None:
    dense = _captured(kind)
    images, labels = _batch()
    model = GatedModel(dense)
    batch = Batch(images=3 * images, labels=labels, multi_label=False)

    def error(steps: int) -> float:
        parts = Integrated(explained=explained, steps=steps).per_sample(model, 0)(batch)
        return float((parts.sum(1) - change).abs().max() / change.abs().max())

    with torch.no_grad():
        full, empty = (
            objective(model(batch.images, gates), labels, explained, False)
            for gates in (model.ones(), torch.zeros_like(model.ones()))
        )
    change = full - empty
    assert error(64) <= 0.01
    assert error(1) > 0.01


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_half_precision_ranks_units_as_single_precision_does(
    kind: type[nn.Module], criterion: str
) -> None:
    dense = _captured(kind)
    exact = torch.cat([*attribute(dense, [_batch(8)], criterion).values.values()])
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([*attribute(dense, [_batch(8)], criterion).values.values()])
    assert not torch.equal(found, exact)
    assert spearmanr(found, exact).statistic > 0.9


def test_the_evidence_for_findings_is_that_for_the_present_less_that_for_the_absent() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [1.0, 1.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert objective(logits, labels, "evidence", True).tolist() == [3.5, -3.0]


def test_removing_a_unit_by_its_gate_equals_cutting_it() -> None:
    dense = _captured(Residual)
    images, labels = _batch()
    model = GatedModel(dense)
    scores = attribute(dense, [(images, labels)])
    whole = ep.make_plan(dense, scores, ep.Budget(keep=1.0))
    for index, group in enumerate(whole.groups):
        gone = int(scores[group.name].argmax())
        kept = tuple(unit for unit in range(group.size) if unit != gone)
        groups = list(whole.groups)
        groups[index] = replace(group, kept=kept)
        slim = ep.cut(dense, replace(whole, groups=tuple(groups)))
        gates = model.ones()
        model.by_group(gates)[group.name][0, gone] = 0
        with torch.no_grad():
            torch.testing.assert_close(model(images, gates), slim.module(images))
            assert not torch.allclose(model(images, gates), dense.module(images))


@pytest.mark.parametrize("criterion", [*CRITERIA])
def test_the_same_seed_gives_the_same_scores(criterion: str) -> None:
    dense = _captured(Residual)
    first, second = (attribute(dense, [_batch()], criterion, seed=4) for _ in range(2))
    for name, values in first.values.items():
        assert torch.equal(values, second[name])


def test_another_seed_gives_other_random_scores() -> None:
    dense = _captured(Residual)
    first, second = (attribute(dense, [], "random", seed=seed) for seed in (0, 1))
    assert not torch.equal(first["conv1"], second["conv1"])


def test_magnitude_is_the_norm_of_all_that_a_unit_owns_relative_to_its_group() -> None:
    torch.manual_seed(0)
    model = _trained_statistics(Residual())
    assert isinstance(model, Residual)
    dense = ep.capture(model, torch.randn(2, 3, 8, 8))
    owned = [
        *(model.conv1.weight, model.conv1.bias, model.bn1.weight, model.bn1.bias),
        *(model.reduce.weight.transpose(0, 1), model.expand.weight, model.expand.bias),
        model.conv2.weight.transpose(0, 1),
    ]
    norms = sum(t.detach().double().square().reshape(12, -1).sum(1) for t in owned) ** 0.5
    assert isinstance(norms, Tensor)
    torch.testing.assert_close(attribute(dense, [], "magnitude")["conv1"], norms / norms.mean())


def test_scores_per_class_sum_to_the_scores_and_name_the_class_that_loses_most() -> None:
    dense = _captured(Residual)
    images, labels = _batch(6)
    scores = attribute(dense, [(images, labels)], classes=("a", "b", "c"))
    only = attribute(dense, [(images[labels == 1], labels[labels == 1])])
    assert scores.per_class is not None
    torch.testing.assert_close(scores.per_class["conv1"].sum(0), scores["conv1"])
    torch.testing.assert_close(scores.per_class["conv1"][1], only["conv1"], rtol=1e-5, atol=0)
    most = scores.most_affected("conv1")
    assert most is not None
    assert set(most) <= {"a", "b", "c"}


@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_an_image_with_several_findings_counts_for_each_and_one_without_for_none(
    criterion: str,
) -> None:
    dense = _captured(Residual)
    images, _ = _batch(2)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    scores = attribute(dense, [(images, labels)], criterion, multi_label=True)
    first = attribute(dense, [(images[:1], labels[:1])], criterion, multi_label=True)
    assert scores.per_class is not None
    per_class = scores.per_class["conv1"]
    for row, expected in enumerate((first["conv1"], 0 * first["conv1"], first["conv1"])):
        torch.testing.assert_close(per_class[row], expected, rtol=1e-4, atol=1e-9)
    assert scores["conv1"].sum() > first["conv1"].sum()


def test_scores_say_how_they_came_about() -> None:
    dense = _captured(Residual)
    ids = ("p1", "p2", "p3", "p4")
    seen: list[int] = []
    images, labels = _batch()
    parts = zip(images.split(3), labels.split(3), strict=True)
    scores = attribute(dense, parts, sampler="cluster", sample_ids=ids, progress=seen.append)
    assert (scores.criterion, scores.sampler, scores.samples) == ("taylor", "cluster", ids)
    assert seen == [3, 4]
    assert attribute(dense, [_batch()], Lrp()).criterion == "lrp"
    other = attribute(dense, [_batch()], Integrated(steps=4))
    assert other.criterion == "ig:steps=4"


def test_attributions_that_are_not_finite_are_an_error_that_names_criterion_and_group() -> None:
    images, labels = _batch()
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(EdgepruneError, match="'taylor' gives values that are not finite for group"):
        attribute(_captured(Residual), [(images, labels)])


def test_labels_and_names_that_do_not_fit_are_errors() -> None:
    dense = _captured(Residual)
    images, labels = _batch()
    with pytest.raises(DataError, match="outside the classes, such as 3"):
        attribute(dense, [(images, labels + 1)])
    with pytest.raises(DataError, match=r"not \(N, 3\)"):
        attribute(dense, [(images, labels)], multi_label=True)
    with pytest.raises(DataError, match="there are none in the batches"):
        attribute(dense, [])
    with pytest.raises(DataError, match="3 labels for 4 images"):
        attribute(dense, [(images, labels[:3])])
    with pytest.raises(UsageError, match="2 class names for a model of 3 logits"):
        attribute(dense, [(images, labels)], classes=("a", "b"))
    with pytest.raises(UsageError, match="1 sample_ids for 4 images"):
        attribute(dense, [(images, labels)], sample_ids=("x",))
    with pytest.raises(UsageError, match="0 steps"):
        Integrated(steps=0)
    with pytest.raises(UsageError, match="epsilon is -1"):
        Lrp(epsilon=-1)

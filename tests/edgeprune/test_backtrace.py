"""DL-Backtrace against plain loops over neurons, and what it promises."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import Batch, attribute
from edgeprune.attribution.backtrace import Backtrace, relevance_maps
from edgeprune.attribution.backtrace.contrast import by_dominance
from edgeprune.attribution.backtrace.default import in_proportion
from edgeprune.attribution.backtrace.maps import one_map, reached, two_maps, whole
from edgeprune.attribution.backtrace.table import rules
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

from . import naive_backtrace as naive
from .models import Concatenated, MergedHeads, SqueezeExcite, TokensFirst, Transformer

MODES = ("default", "contrast")


def _batch(images: Tensor, labels: list[int]) -> Batch:
    return Batch(images=images, labels=torch.tensor(labels), multi_label=False)


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _small(seed: int) -> naive.Small:
    torch.manual_seed(seed)
    return naive.Small().double()


def _start(logits: Tensor, label: int, mode: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = logits.detach().numpy()
    chosen = np.arange(len(values)) == label
    both = np.stack([np.abs(values) * chosen, values.clip(min=0) * ~chosen])
    return both[: MODES.index(mode) + 1]


def _run(dense: ep.Captured, images: Tensor, gating: str = "off") -> Tensor:
    model = GatedModel(dense)
    paths = whole(model)
    found = rules(dense.module.graph, reached(model, paths), in_proportion, gated=gating == "paper")
    gates = torch.ones(1, model.total, dtype=images.dtype)  # a model may have no parameter
    logits: Tensor = one_map(model, gates, paths, found).run(images)
    return logits


def _heat(model: nn.Module, image: Tensor, gating: str = "off") -> Tensor:
    """Return the relevance of the pixels of one image for the first logit."""
    with torch.no_grad():
        dense = ep.capture(model.eval(), torch.cat([image, image + 1]))
    pixels = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_run(dense, pixels, gating)[0, 0], pixels)
    return (gradient * image)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(6))
def test_units_get_what_a_loop_over_neurons_gives_them(mode: str, seed: int) -> None:
    model, images = _small(seed), _random(2, 2, 6, 6, seed=seed).double()
    labels = [seed % 3, 2]
    dense = ep.capture(model, images)
    gated = GatedModel(dense)
    found = relevance_maps(gated, Backtrace(mode=mode))(_batch(images, labels))  # type: ignore[arg-type]
    share = naive.default if mode == "default" else naive.contrast
    seen = set()
    for number, label in enumerate(labels):
        start = _start(model(images)[number], label, mode)
        expected = naive.units(model, images[number], start, share)
        for name, part in gated.by_group(found[:, number]).items():
            seen.add(name)
            torch.testing.assert_close(
                part, torch.from_numpy(expected[name]), rtol=1e-9, atol=1e-12, msg=name
            )
    assert seen == {"stem", "widen", "narrow", "hidden"}


def test_both_maps_of_the_loops_carry_relevance() -> None:
    model, image = _small(0), _random(1, 2, 6, 6, seed=0).double()
    start = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.5]])
    found = naive.units(model, image[0], start, naive.contrast)
    assert all((values.sum(1) > 0).all() for values in found.values())


class WritesBeside(nn.Module):
    """Adds in place to a slice, as GhostNet does; whether anybody else reads what it wrote."""

    def __init__(self, *, read: bool = False) -> None:
        super().__init__()
        self.stem, self.more = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
        self.head, self.read = nn.Linear(6, 5), read

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.cat([self.more(x), self.more(x * 2)], 1)
        z = y[:, :6]
        z += x
        return self.head((y[:, 3:9] if self.read else z).mean((2, 3)))


class ReadsBeside(WritesBeside):
    def __init__(self) -> None:
        super().__init__(read=True)


MODELS = [
    pytest.param(WritesBeside, id="writes into a slice"),
    pytest.param(SqueezeExcite, id="squeeze-excite"),
    pytest.param(Concatenated, id="concatenated"),
    pytest.param(Transformer, id="transformer"),
    pytest.param(MergedHeads, id="merged heads"),
    pytest.param(TokensFirst, id="tokens first"),
]


def _captured(kind: type[nn.Module], count: int = 3) -> ep.Captured:
    torch.manual_seed(0)
    return ep.capture(kind().eval(), _random(count, 3, 12, 12))


@pytest.mark.parametrize("kind", [*MODELS, pytest.param(ReadsBeside, id="reads what was written")])
def test_every_logit_stays_as_it_is(kind: type[nn.Module]) -> None:
    dense = _captured(kind)
    model, images = GatedModel(dense), _random(4, 3, 12, 12, seed=2)
    paths = whole(model)
    found = rules(dense.module.graph, reached(model, paths), by_dominance, gated=False)
    both = two_maps(model, (model.ones(), model.ones()), images, paths, found)
    expected = dense.module(images)
    for logits in (_run(dense, images), _run(dense, images, "paper"), *both):
        assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_no_map_is_negative_and_none_is_flat(kind: type[nn.Module], mode: str) -> None:
    model = GatedModel(_captured(kind))
    maps = relevance_maps(model, Backtrace(mode=mode))  # type: ignore[arg-type]
    found = maps(_batch(_random(4, 3, 12, 12, seed=2), [0, 1, 2, 3]))
    assert found.shape == (MODES.index(mode) + 1, 4, model.total)
    assert found.isfinite().all()
    assert found.min() >= 0
    for name, part in model.by_group(found[0].sum(0)).items():
        assert part.std() > 1e-4 * part.mean(), name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_an_image_is_scored_alike_in_any_batch(kind: type[nn.Module], mode: str) -> None:
    maps = relevance_maps(GatedModel(_captured(kind)), Backtrace(mode=mode))  # type: ignore[arg-type]
    images, labels = _random(3, 3, 12, 12, seed=3), [4, 0, 2]
    together = maps(_batch(images, labels))
    for number, (image, label) in enumerate(zip(images.split(1), labels, strict=True)):
        alone = maps(_batch(image, [label]))[:, 0]
        torch.testing.assert_close(together[:, number], alone, rtol=1e-3, atol=1e-7)


class Bare(nn.Module):
    """No bias anywhere: convolutions, a sum of streams, pooling, a product of two signals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (
            nn.Conv2d(i, 6, 3, padding=1, bias=False) for i in (3, 6, 6)
        )
        self.hidden, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.silu(self.left(x)) * self.right(x) + x
        y = F.max_pool2d(y, 3, 2, 1)
        return self.head(F.gelu(self.hidden(y.mean((2, 3)))))


@pytest.mark.parametrize("mode", MODES)
def test_without_biases_a_layer_shares_all_that_each_map_starts_with(mode: str) -> None:
    dense = _captured(Bare)
    model, images = GatedModel(dense), _random(2, 3, 12, 12, seed=5)
    found = relevance_maps(model, Backtrace(mode=mode))(_batch(images, [1, 3]))  # type: ignore[arg-type]
    sums = model.by_group(found)["hidden"].sum(-1).double()
    for number, (label, logits) in enumerate(zip((1, 3), dense.module(images), strict=True)):
        start = torch.from_numpy(_start(logits.double(), label, mode)).sum(1)
        assert (start > 0).all()
        torch.testing.assert_close(sums[:, number], start, rtol=1e-4, atol=1e-7)


def test_without_biases_all_relevance_arrives_at_the_pixels() -> None:
    image = _random(1, 3, 12, 12, seed=5)
    torch.manual_seed(0)
    model = Bare()
    logit = model(image)[0, 0].item()
    assert _heat(model, image).sum().item() == pytest.approx(logit, rel=1e-4)


class WritesNowhere(WritesBeside):
    """The same out of place."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.cat([self.more(x), self.more(x * 2)], 1)
        return self.head((y[:, :6] + x).mean((2, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_an_operator_in_place_is_attributed_like_its_form_out_of_place(mode: str) -> None:
    batch = _batch(_random(2, 3, 12, 12, seed=6), [1, 3])
    found = [
        relevance_maps(GatedModel(_captured(kind)), Backtrace(mode=mode))(batch)  # type: ignore[arg-type]
        for kind in (WritesBeside, WritesNowhere)
    ]
    torch.testing.assert_close(*found)


class Pool(nn.Module):
    """A pooling alone."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0)},
    ],
    ids=str,
)
def test_tied_winners_share_evenly_and_keep_the_sum(options: dict[str, Any]) -> None:
    image = torch.randint(1, 4, (1, 2, 7, 8), generator=torch.Generator().manual_seed(0)).float()
    pool = nn.MaxPool2d(**options)
    heat = _heat(Pool(pool), image)
    assert heat.sum().item() == pytest.approx(pool(image).sum().item(), rel=1e-6)
    torch.testing.assert_close(heat, _naive_pool(image[0], pool))


def _naive_pool(x: Tensor, pool: nn.MaxPool2d) -> Tensor:
    def pair(value: Any) -> tuple[int, int]:
        return value if isinstance(value, tuple) else (value, value)

    kernel, stride, pad, dilation = map(
        pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    result, found = pool(x[None])[0], torch.zeros_like(x)
    for c, row, column in itertools.product(*map(range, result.shape)):
        places = [
            (
                c,
                row * stride[0] + i * dilation[0] - pad[0],
                column * stride[1] + j * dilation[1] - pad[1],
            )
            for i, j in itertools.product(range(kernel[0]), range(kernel[1]))
        ]
        places = [p for p in places if 0 <= p[1] < x.shape[1] and 0 <= p[2] < x.shape[2]]
        tied = [p for p in places if x[p] == result[c, row, column]]
        for place in tied:
            found[place] += result[c, row, column] / len(tied)
    return found


@pytest.mark.parametrize("rank", [1, 3])
def test_ties_are_shared_in_one_and_in_three_dimensions(rank: int) -> None:
    kind = {1: nn.MaxPool1d, 3: nn.MaxPool3d}[rank]

    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = kind(2)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2) if rank == 1 else x.unflatten(1, (1, 2))
            return self.pool(x).flatten(1).sum(1, keepdim=True)

    heat = _heat(Reshaped(), torch.ones(1, 2, 4, 4))
    torch.testing.assert_close(heat, torch.full((2, 4, 4), 2.0**-rank))


class Attend(nn.Module):
    """One head of attention on what it is given; the first logit is one of its results."""

    def __init__(self, *, spelt_out: bool, bias: Tensor | None = None) -> None:
        super().__init__()
        self.spelt_out = spelt_out
        self.bias = nn.Parameter(bias) if bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.unbind(1)  # (N, tokens, dimensions)
        if self.spelt_out:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            scores = scores if self.bias is None else scores + self.bias
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], self.bias)
        return y.flatten(1)


def test_attention_gives_half_to_each_operand_of_its_products() -> None:
    x = _random(1, 3, 4, 3)
    heat = _heat(Attend(spelt_out=False), x)
    q, k, v = x[0].double()
    scores = q @ k.T / 3**0.5
    weights = scores.softmax(-1)
    result = (weights @ v)[0, 0]
    expected = torch.zeros(3, 4, 3, dtype=torch.float64)
    total = sum(abs(weights[0, j] * v[j, 0]) for j in range(4))
    for j in range(4):
        given = abs(weights[0, j] * v[j, 0]) / total * result
        expected[2, j, 0] = given / 2
        size = sum(abs(q[0, d] * k[j, d]) for d in range(3))
        for d in range(3):
            part = abs(q[0, d] * k[j, d]) / size * given / 2
            expected[0, 0, d] += part / 2
            expected[1, j, d] += part / 2
    torch.testing.assert_close(heat.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("biased", [False, True])
def test_attention_spelt_out_is_attributed_like_the_operator(biased: bool) -> None:
    x, bias = _random(1, 3, 4, 3), _random(4, 4, seed=2) if biased else None
    fused = _heat(Attend(spelt_out=False, bias=bias), x)
    torch.testing.assert_close(fused, _heat(Attend(spelt_out=True, bias=bias), x))


def test_what_a_mask_hides_gets_nothing() -> None:
    mask = torch.zeros(4, 4)
    mask[:, 2] = -torch.inf
    heat = _heat(Attend(spelt_out=False, bias=mask), _random(1, 3, 4, 3))
    assert heat.isfinite().all()
    assert heat[1:, 2].abs().max() == 0
    assert heat[1:, 1].abs().min() >= 0
    assert heat[2, 1, 0] != 0


class Squashed(nn.Module):
    """One neuron behind a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.constant_(self.layer.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).sigmoid()


@pytest.mark.parametrize(
    ("pixels", "counts"),
    [
        ([3.0, 4.0, -1.0, -0.5], [1, 1, 0, 0]),  # 6.0: above the range
        ([-3.0, -4.0, 1.0, 0.5], [1, 1, 0, 0]),  # -5.0: below
        ([1.0, 2.0, -1.0, -0.5], [1, 1, 1, 1]),  # 2.0: inside
    ],
)
def test_the_gating_of_the_paper_leaves_out_what_saturation_hides(
    pixels: list[float], counts: list[int]
) -> None:
    image = torch.tensor(pixels).reshape(1, 1, 2, 2)
    heat = _heat(Squashed(), image, "paper").flatten()
    kept = image.flatten().abs() * torch.tensor(counts)
    logit = Squashed()(image)[0, 0]
    torch.testing.assert_close(heat, (kept / (kept.sum() + 0.5) * logit).detach())


def test_gating_changes_nothing_behind_a_relu() -> None:
    model = GatedModel(_captured(Concatenated))
    batch = _batch(_random(2, 3, 12, 12), [0, 1])
    plain, gated = (
        relevance_maps(model, Backtrace(gating=gating))(batch)  # type: ignore[arg-type]
        for gating in ("off", "paper")
    )
    torch.testing.assert_close(plain, gated, rtol=1e-4, atol=1e-8)


def test_scores_are_the_first_map_or_the_difference_of_both() -> None:
    dense, images = _captured(Concatenated), _random(1, 3, 12, 12)
    model, batch = GatedModel(dense), _batch(images, [2])
    for mode in MODES:
        settings = Backtrace(mode=mode)  # type: ignore[arg-type]
        found = relevance_maps(model, settings)(batch)
        expected = found[0] if mode == "default" else found[0] - found[1]
        scores = attribute(dense, [(images, batch.labels)], settings)
        for name, part in model.by_group(expected[0].abs().double()).items():
            torch.testing.assert_close(scores[name], part)


def test_the_predicted_class_is_explained_without_labels() -> None:
    dense, images = _captured(Concatenated), _random(3, 3, 12, 12)
    maps = relevance_maps(GatedModel(dense), Backtrace(explained="predicted"))
    predicted = dense.module(images).argmax(1)
    expected = relevance_maps(GatedModel(dense), Backtrace())(_batch(images, predicted.tolist()))
    wrong = ((predicted + 1) % 5).tolist()
    torch.testing.assert_close(maps(_batch(images, wrong)), expected)
    assert not Backtrace(explained="predicted").needs_labels
    assert Backtrace().needs_labels


def test_findings_start_with_each_logit_on_the_map_of_what_is_told() -> None:
    dense, images = _captured(Bare), _random(1, 3, 12, 12)
    logits = dense.module(images)[0]
    told = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0]])
    batch = Batch(images=images, labels=told, multi_label=True)
    model = GatedModel(dense)
    (one,) = relevance_maps(model, Backtrace())(batch)
    assert model.by_group(one)["hidden"].sum().item() == pytest.approx(
        logits.abs().sum().item(), rel=1e-4
    )
    maps = relevance_maps(model, Backtrace(mode="contrast"))(batch)
    agreed = (told[0] > 0) == (logits > 0)
    sums = model.by_group(maps)["hidden"].sum((1, 2))
    expected = torch.stack([logits.abs()[agreed].sum(), logits.abs()[~agreed].sum()])
    assert (expected > 0).all()
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-7)


class Fixed(Concatenated):
    """Takes two images and no other number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(2, 3, 12, 12))


class Positions(nn.Module):
    """Positions come from a network of their own, once for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = nn.Buffer(torch.rand(9, 2))
        self.embed, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 5)
        self.fc1, self.fc2 = nn.Linear(2, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = F.gelu(x + self.fc2(F.relu(self.fc1(self.coordinates))))
        return self.head(x.mean(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Fixed, Positions])
def test_models_that_take_images_one_by_one_or_two_by_two_are_scored(
    kind: type[nn.Module], mode: str
) -> None:
    dense = _captured(kind, 2)
    assert not (dense.dynamic_batch and GatedModel(dense).by_sample)
    images, labels = _random(3, 3, 12, 12, seed=4), torch.tensor([0, 3, 1])
    criterion = Backtrace(mode=mode)  # type: ignore[arg-type]
    together = attribute(dense, [(images, labels)], criterion)
    singly = attribute(dense, zip(images.split(1), labels.split(1), strict=True), criterion)
    for name, values in together.values.items():
        assert values.std() > 0
        torch.testing.assert_close(values, singly[name], rtol=1e-3, atol=1e-8)


def test_gating_is_refused_in_contrast_mode() -> None:
    with pytest.raises(UsageError, match="default mode only: use gating=off"):
        Backtrace(mode="contrast", gating="paper")

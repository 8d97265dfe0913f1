"""The rules of contractions against the formulas they state, written out."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import Batch, attribute
from edgeprune.attribution.lrp import CompositeName, Epsilon, Gamma, Lrp, ZPlus, propagation
from edgeprune.attribution.lrp.contractions import ContractionRule
from edgeprune.attribution.lrp.folding import find_folds
from edgeprune.attribution.lrp.operands import Contraction, Roles, find_roles
from edgeprune.attribution.propagation import find_paths
from edgeprune.gates import GatedModel

Shares = Callable[[Tensor, Tensor], Tensor]  # contributions (out, in), bias (out,) → shares

SETTINGS = {
    "epsilon": Lrp(epsilon=0.3),
    "absolute": Lrp(epsilon=0.3, absolute=True),
    "zplus": Lrp(rule="zplus"),
    "gamma": Lrp(rule="gamma", gamma=0.7),
}


def epsilon(z: Tensor, bias: Tensor) -> Tensor:
    result = z.sum(1) + bias
    return z / (result + 0.3 * result.abs().mean() * result.sign())[:, None]


def absolute(z: Tensor, bias: Tensor) -> Tensor:
    result = z.sum(1) + bias
    return z / (result + 0.3 * result.sign())[:, None]


def zplus(z: Tensor, bias: Tensor) -> Tensor:
    positive = z.clamp(min=0).sum(1) + bias.clamp(min=0)
    return z.clamp(min=0) / positive.where(positive > 0, 1)[:, None]


def gamma(z: Tensor, bias: Tensor) -> Tensor:
    above = (z.sum(1) + bias > 0)[:, None]

    def favoured(part: Tensor) -> Tensor:
        return part + 0.7 * torch.where(above, part.clamp(min=0), part.clamp(max=0))

    return favoured(z) / (favoured(z).sum(1, keepdim=True) + favoured(bias[:, None]))


FORMULAS: dict[str, Shares] = {
    "epsilon": epsilon,
    "absolute": absolute,
    "zplus": zplus,
    "gamma": gamma,
}


class Single(nn.Module):
    """One contraction, and what brings the image to it and its result to logits."""

    def __init__(self, layer: nn.Module, before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.before = layer, before

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(x)).flatten(1)


class Product(nn.Module):
    """Matrix products, the parameter second or first."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.randn(48, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mm":
            return torch.mm(x, self.weight)
        if self.kind == "weight first":
            return torch.mm(self.weight.t(), x.t()).t()
        if self.kind == "matmul":
            return x @ self.weight
        if self.kind == "baddbmm":
            return torch.baddbmm(self.bias, x[:, None], self.weight.expand(len(x), -1, -1))
        return torch.addmm(self.bias, x, self.weight, alpha=-0.5, beta=2.0)


def _same(x: Tensor) -> Tensor:
    return x


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _line(x: Tensor) -> Tensor:
    return x.flatten(2)


def _volume(x: Tensor) -> Tensor:
    return x.unsqueeze(1)


def _last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "linear": (lambda: nn.Linear(48, 5), _flat),
    "linear without bias": (lambda: nn.Linear(48, 5, bias=False), _flat),
    "linear on tokens": (lambda: nn.Linear(16, 5), _line),
    "mm": (lambda: Product("mm"), _flat),
    "mm, the weight first": (lambda: Product("weight first"), _flat),
    "addmm": (lambda: Product("addmm"), _flat),
    "matmul": (lambda: Product("matmul"), _flat),
    "baddbmm": (lambda: Product("baddbmm"), _flat),
    "conv1d": (lambda: nn.Conv1d(3, 4, 5, padding=2), _line),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding="same"), _same),
    "conv2d, channels last": (lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2), _last),
    "grouped conv2d": (lambda: nn.Conv2d(3, 6, 3, stride=2, groups=3, bias=False), _same),
    "conv3d": (lambda: nn.Conv3d(1, 3, 2), _volume),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 2, 3, stride=2), _line),
    "grouped conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3), _same),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(1, 2, 2), _volume),
}


def _images(count: int = 3, size: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def _capture(model: nn.Module, images: Tensor) -> ep.Captured:
    return ep.capture(model.eval(), images[:2])


def _relevance(dense: ep.Captured, settings: Lrp, images: Tensor, start: Tensor) -> Tensor:
    """Return what reaches the images, (N, C, H, W), from logits × start at the logits."""
    model = GatedModel(dense)
    leaf = images.clone().requires_grad_()
    logits = propagation(model, settings)(leaf, model.ones())
    assert (logits - dense.module(images)).abs().max() <= 1e-6 * logits.abs().max()
    (gradient,) = torch.autograd.grad((logits * start).sum(), leaf)
    return gradient * images


def _written_out(model: nn.Module, shares: Shares, image: Tensor, start: Tensor) -> Tensor:
    """Return the same for one image (C, H, W) from the matrix that the layer amounts to."""

    def run(x: Tensor) -> Tensor:
        return model(x[None])[0]

    bias = run(torch.zeros_like(image))
    matrix = torch.autograd.functional.jacobian(run, image).flatten(1)
    z = (matrix * image.flatten()).detach()
    return (shares(z, bias.detach()).T @ ((z.sum(1) + bias) * start).detach()).reshape(image.shape)


@pytest.mark.parametrize("rule", SETTINGS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_rule_shares_relevance_as_its_formula_says(layer: str, rule: str) -> None:
    torch.manual_seed(0)
    build, before = LAYERS[layer]
    model, images = Single(build(), before).eval(), _images()
    dense = _capture(model, images)
    start = torch.rand_like(model(images)) + 0.5
    for x in (images, images.abs()):
        found = _relevance(dense, SETTINGS[rule], x, start)
        for image, row, relevance in zip(x, start, found, strict=True):
            expected = _written_out(model, FORMULAS[rule], image, row)
            torch.testing.assert_close(relevance, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", SETTINGS)
def test_two_layers_equal_a_loop_over_neurons(rule: str) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(48, 7), nn.Linear(7, 3)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)
    images = _images(2)
    scores = attribute(
        _capture(model, images),
        [(images[:1], torch.tensor([1]))],
        replace(SETTINGS[rule], explained="evidence"),
    )
    x, hidden = images[0].flatten(), F.relu(first(images[0].flatten()))
    logits = second(hidden)
    top = FORMULAS[rule]((second.weight * hidden).detach(), second.bias.detach())
    relevance = [top[1, j].item() * logits[1].item() for j in range(7)]
    (found,) = scores.values.values()
    for j, expected in enumerate(relevance):
        assert found[j].item() == pytest.approx(abs(expected), rel=1e-4, abs=1e-7)
    below = FORMULAS[rule]((first.weight * x).detach(), first.bias.detach())
    image = [sum(below[j, i].item() * relevance[j] for j in range(7)) for i in range(48)]
    start = F.one_hot(torch.tensor([1]), 3).float()
    mapped = _relevance(_capture(model, images), SETTINGS[rule], images[:1], start)
    torch.testing.assert_close(mapped.flatten(), torch.tensor(image), rtol=1e-3, atol=1e-6)


class Deep(nn.Module):
    """Convolutions with normalisation, a residual connection that starts at 0, and a head."""

    def __init__(self, *, bias: bool = True, last_scale: float = 0.0) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3, bias=bias)
        for norm in (self.bn0, self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 1.5)
            if bias:
                nn.init.normal_(norm.bias)
                nn.init.normal_(norm.get_buffer("running_mean"))
        with torch.no_grad():
            self.bn2.weight.mul_(last_scale)
            self.bn2.bias.mul_(last_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(F.relu(x + y).mean((2, 3)))


RULES: tuple[CompositeName, ...] = (
    "epsilon",
    "zplus",
    "gamma",
    "epsilon_plus",
    "epsilon_gamma",
    "low_middle_high",
)


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_branch_that_is_0_gives_finite_scores(rule: CompositeName) -> None:
    torch.manual_seed(0)
    images = _images(size=8)
    dense = _capture(Deep(), images)
    with torch.no_grad():
        dense.module.get_parameter("bn2.weight").zero_()
        dense.module.get_parameter("bn2.bias").zero_()
        dense.module.get_buffer("bn2.running_mean").zero_()
    scores = attribute(dense, [(images, torch.tensor([0, 1, 2]))], Lrp(rule=rule))
    assert all(values.isfinite().all() for values in scores.values.values())
    assert scores["stem"].any()


@pytest.mark.parametrize("rule", RULES)
def test_without_biases_what_reaches_the_image_is_the_logit(rule: CompositeName) -> None:
    torch.manual_seed(0)
    images = _images(size=8)
    dense = _capture(Deep(bias=False, last_scale=1.0), images)
    start = F.one_hot(torch.tensor([0, 1, 2]), 3).float()
    found = _relevance(dense, Lrp(rule=rule, epsilon=0), images, start).sum((1, 2, 3))
    torch.testing.assert_close(found, (dense.module(images) * start).sum(1), rtol=1e-3, atol=1e-5)


class Merging(nn.Module):
    """A contraction with batch normalisation, or one that has taken it over."""

    def __init__(self, layer: nn.Module, norm: nn.Module, before: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.norm = before, layer, norm

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.layer(self.before(x)))).flatten(1)


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], nn.Module]] = {
    "conv2d": (lambda: nn.Conv2d(3, 6, 3, groups=3), lambda: nn.BatchNorm2d(6), nn.Identity()),
    "conv1d": (lambda: nn.Conv1d(3, 6, 3, bias=False), lambda: nn.BatchNorm1d(6), nn.Flatten(2)),
    "conv_transpose2d": (
        lambda: nn.ConvTranspose2d(3, 6, 2, groups=3),
        lambda: nn.BatchNorm2d(6),
        nn.Identity(),
    ),
    "linear": (
        lambda: nn.Linear(48, 6),
        lambda: nn.BatchNorm1d(6, affine=False),
        nn.Flatten(),
    ),
    "mm": (lambda: Product("mm"), lambda: nn.BatchNorm1d(5), nn.Flatten()),
    "addmm": (lambda: Product("addmm"), lambda: nn.BatchNorm1d(5), nn.Flatten()),
}


@pytest.mark.parametrize("rule", ["absolute", "zplus", "gamma"])
@pytest.mark.parametrize("pair", PAIRS)
def test_normalisation_counts_as_a_part_of_the_contraction_before_it(pair: str, rule: str) -> None:
    torch.manual_seed(0)
    build, normalise, before = PAIRS[pair]
    norm = normalise()
    for tensor in itertools.chain(norm.parameters(), norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.3, 1.5)
    model, images = Merging(build(), norm, before).eval(), _images()
    dense = _capture(model, images)
    assert len(find_folds(GatedModel(dense))) == 1
    start = torch.rand_like(model(images))
    found = _relevance(dense, SETTINGS[rule], images, start)
    for image, row, relevance in zip(images, start, found, strict=True):
        # Where ReLU is off nothing is passed on, so the matrix before it will do.
        linear = nn.Sequential(model.before, model.layer, model.norm, nn.Flatten()).eval()
        expected = _written_out(linear, FORMULAS[rule], image, row * (model(image[None])[0] > 0))
        torch.testing.assert_close(relevance, expected, rtol=1e-3, atol=1e-5)


class ReadTwice(nn.Module):
    """What a convolution gives is normalised, and also added to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(F.relu(x + self.norm(x)).mean((2, 3)))


def test_normalisation_of_what_others_read_too_stays_where_it_is() -> None:
    torch.manual_seed(0)
    images = _images()
    dense = _capture(ReadTwice(), images)
    assert not find_folds(GatedModel(dense))
    found = _relevance(dense, Lrp(rule="zplus"), images, torch.ones(3, 3))
    assert found.isfinite().all()
    assert found.any()


def test_normalisation_over_tokens_is_not_mistaken_for_one_over_channels() -> None:
    torch.manual_seed(0)
    images = _images()
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 5), nn.BatchNorm1d(3), nn.Flatten())
    assert not find_folds(GatedModel(_capture(model, images)))


def test_unfolded_rules_leave_normalisation_its_own_gradient() -> None:
    torch.manual_seed(0)
    images = _images(size=8)
    dense = _capture(Deep(last_scale=1.0), images)
    leaf = images.clone().requires_grad_()
    start = torch.rand(3, 3)
    (gradient,) = torch.autograd.grad((dense.module(leaf) * start).sum(), leaf)
    found = _relevance(dense, Lrp(epsilon=0), images, start)
    torch.testing.assert_close(found, gradient * images, rtol=1e-4, atol=1e-6)


class TokensFirst(nn.Module):
    """Images lie along the second dimension where the linear layers read them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x.flatten(2).permute(2, 0, 1)))
        return self.head(F.relu(self.mix(x)).mean(0))


@pytest.mark.parametrize("rule", RULES)
def test_an_image_scores_the_same_whatever_batch_it_is_in(rule: CompositeName) -> None:
    torch.manual_seed(0)
    images = _images() * torch.tensor([1.0, 10.0, 0.1]).reshape(3, 1, 1, 1)
    model = GatedModel(_capture(TokensFirst(), images))
    score = Lrp(rule=rule, explained="evidence").per_sample(model, 0)
    labels = torch.tensor([0, 1, 2])
    together = score(Batch(images=images, labels=labels, multi_label=False))
    for i in range(3):
        rows = slice(i, i + 1)
        alone = score(Batch(images=images[rows], labels=labels[rows], multi_label=False))
        torch.testing.assert_close(together[rows], alone, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_scores_under_half_precision_are_those_of_full_precision_roughly(
    rule: CompositeName,
) -> None:
    torch.manual_seed(0)
    images, labels = _images(8, 8), torch.arange(8) % 3
    dense = _capture(Deep(last_scale=1.0), images)
    full = attribute(dense, [(images, labels)], Lrp(rule=rule))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = attribute(dense, [(images, labels)], Lrp(rule=rule))
    for name, values in full.values.items():
        assert (half[name] - values).norm() <= 0.05 * values.norm(), name


@pytest.mark.parametrize("rule", [Epsilon(), Epsilon(absolute=True), ZPlus(), Gamma()])
def test_a_result_of_0_in_half_precision_gets_no_relevance(rule: ContractionRule) -> None:
    x, weight = torch.zeros(1, 3, dtype=torch.half, requires_grad=True), torch.ones(2, 3).half()
    found = rule(
        Contraction(
            signal=x,
            weight=weight,
            bias=None,
            images=0,
            run=lambda: F.linear(x, weight),
            apply=F.linear,
        )
    )
    assert found.dtype == torch.half
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert not (x * gradient).any()


class Pairs(nn.Module):
    """A product of two signals, and one whose first factor is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(4, 3)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(self.weight, x.flatten(2))
        return self.head(torch.matmul(x, x.mT).flatten(1))


def test_the_signal_is_what_varies_and_a_product_of_two_signals_is_no_contraction() -> None:
    torch.manual_seed(0)
    model = GatedModel(_capture(Pairs(), _images()))
    paths = find_paths(model)
    found = {node.name: find_roles(node, paths) for node in model.module.graph.nodes}
    assert {name: roles for name, roles in found.items() if roles is not None} == {
        "matmul": Roles(signal="other", weight="self", bias=None),
        "linear": Roles(signal="input", weight="weight", bias="bias"),
    }

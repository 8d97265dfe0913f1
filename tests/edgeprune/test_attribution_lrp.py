import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import Lrp, Taylor, attribute
from edgeprune.attribution.lrp import propagation
from edgeprune.attribution.propagation import find_paths
from edgeprune.capture import state
from edgeprune.gates import GatedModel

from .relevance_ledger import account


class Plain(nn.Module):
    """Convolutions, ReLU and max-pooling."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=bias)
        self.head = nn.Linear(6 * 4, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.head(F.adaptive_avg_pool2d(F.relu(self.conv2(x)), 2).flatten(1))


class Residual(nn.Module):
    """A residual stream with batch and group normalisation, and squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.gn = nn.Conv2d(8, 12, 3, padding=1), nn.GroupNorm(1, 12)
        self.reduce, self.expand = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.bn(self.stem(x)))
        y = F.silu(self.gn(self.conv1(x)))
        gate = self.expand(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x + self.conv2(gate * y)).mean((2, 3)))


class Excite(nn.Module):
    """Squeeze-excite and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)
        self.reduce, self.expand = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)

    def gate(self, y: Tensor) -> Tensor:
        return self.expand(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()

    def decide(self, y: Tensor, gate: Tensor) -> Tensor:
        return self.head((y * gate).mean((2, 3)))[0, 1]

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return self.head((y * self.gate(y)).mean((2, 3)))


class Transformer(nn.Module):
    """A block with layer scale and gated MLP; attention as one operator or spelt out."""

    def __init__(self, *, spelt_out: bool = False) -> None:
        super().__init__()
        self.spelt_out = spelt_out
        self.embed, self.position = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(4, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.RMSNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.fc1, self.gate, self.fc2 = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)
        for norm in (self.norm1, self.norm2):
            for parameter in norm.parameters():
                nn.init.uniform_(parameter, 0.3, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.scale * self._attention(self.norm1(x))
        y = self.norm2(x)
        x = x + self.fc2(F.gelu(self.fc1(y)) * self.gate(y))
        return self.head(x.mean(1))

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.spelt_out:
            y = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


CASES = [
    pytest.param(Plain, {}, id="plain"),
    pytest.param(Residual, {}, id="residual"),
    pytest.param(Transformer, {}, id="attention"),
    pytest.param(Transformer, {"spelt_out": True}, id="attention spelt out"),
]


def _captured(kind: type[nn.Module], **options: bool) -> ep.Captured:
    torch.manual_seed(0)
    model = kind(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name != "num_batches_tracked":
                    nn.init.uniform_(tensor, 0.3, 1.5)
    return ep.capture(model, torch.randn(2, 3, 8, 8))


def _images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _run(dense: ep.Captured, images: Tensor, epsilon: float) -> Tensor:
    model = GatedModel(dense)
    return propagation(model, Lrp(epsilon=epsilon))(images, model.ones())


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_rules_leave_every_logit_as_it_is(
    kind: type[nn.Module], options: dict[str, bool], epsilon: float
) -> None:
    dense = _captured(kind, **options)
    images = _images()
    expected = dense.module(images)
    assert (_run(dense, images, epsilon) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_relevance_of_image_biases_and_positions_sums_to_the_logit(
    kind: type[nn.Module], options: dict[str, bool]
) -> None:
    found = account(GatedModel(_captured(kind, **options)), _images(1), Lrp(epsilon=0))
    assert abs(found.image) > 1e-3 * abs(found.explained)
    assert found.total == pytest.approx(found.explained, rel=1e-8)


def test_without_biases_the_units_of_each_layer_share_the_logit_among_them() -> None:
    dense = _captured(Plain, bias=False)
    images, labels = _images(1), torch.tensor([2])
    model = GatedModel(dense)
    gates = model.ones().requires_grad_()
    logit = propagation(model, Lrp(epsilon=0))(images, gates)[0, 2]
    (relevance,) = torch.autograd.grad(logit, gates)
    for name, part in model.by_group(relevance).items():
        assert part.sum().item() == pytest.approx(logit.item(), rel=1e-4), name
    scores = attribute(dense, [(images, labels)], Lrp(explained="evidence", epsilon=0))
    torch.testing.assert_close(
        scores["conv1"], model.by_group(relevance)["conv1"][0].abs().double()
    )


@pytest.mark.parametrize("explained", ["loss", "evidence"])
def test_lrp_0_is_gradient_times_input_in_a_relu_network(explained: str) -> None:
    dense = _captured(Plain)
    batch = (_images(), torch.tensor([0, 1, 2, 0]))
    lrp = attribute(dense, [batch], Lrp(explained=explained, epsilon=0))  # type: ignore[arg-type]
    taylor = attribute(dense, [batch], Taylor(explained=explained))  # type: ignore[arg-type]
    for name, values in taylor.values.items():
        torch.testing.assert_close(lrp[name], values, rtol=1e-5, atol=1e-9)


def test_the_epsilon_rule_is_the_published_one_on_a_single_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 8)
    dense = ep.capture(nn.Sequential(layer, nn.Flatten()), torch.randn(2, 3, 8, 8))
    image = _images(1).requires_grad_()
    logits = _run(dense, image, 0.3)
    (gradient,) = torch.autograd.grad(logits[0, 1], image)
    z = layer(image)[0, :, 0, 0].detach()
    stabilised = z[1] + 0.3 * z.abs().mean() * z[1].sign()
    expected = image[0] * layer.weight[1] / stabilised * z[1]
    torch.testing.assert_close(image[0] * gradient[0], expected, rtol=1e-4, atol=1e-7)


class Wave(nn.Module):
    """Frequencies that are powers of a number, as Fourier positions compute them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.steps = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)) + torch.sin(10.0**self.steps))


def test_a_number_raised_to_a_tensor_keeps_its_own_gradient() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8)
    wave = ep.capture(Wave(), images)
    batches = [(images, torch.tensor([0, 1, 2]))]
    (found,) = attribute(wave, batches, Lrp(explained="evidence", epsilon=0)).values.values()
    (wanted,) = attribute(wave, batches, Taylor(explained="evidence")).values.values()
    assert found.any()
    torch.testing.assert_close(found, wanted)  # in a ReLU network LRP-0 is gradient × input


def test_a_query_gets_no_relevance_but_its_gates_do() -> None:
    dense = _captured(Transformer)
    image = _images(1).requires_grad_()
    logit = _run(dense, image, 0.0)[0, 0]
    (gradient,) = torch.autograd.grad(logit, state(dense.module)["qkv.weight"])
    query, key, value = gradient.split(16)
    assert query.abs().max() == key.abs().max() == 0
    assert value.abs().max() > 0


def test_a_signal_is_scored_as_if_its_gate_were_constant_and_the_gate_by_its_effect() -> None:
    torch.manual_seed(0)
    model = Excite()
    dense = ep.capture(model, torch.randn(2, 3, 8, 8))
    image = _images(1)
    scores = attribute(dense, [(image, torch.tensor([1]))], Lrp(explained="evidence", epsilon=0))
    signal = F.relu(model.conv(image)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.decide(signal, model.gate(signal).detach()), signal)
    expected = (signal * gradient).sum((0, 2, 3)).abs().double()
    torch.testing.assert_close(scores["conv"], expected, rtol=1e-4, atol=1e-8)
    assert scores["reduce"].max() > 0


def test_a_unit_that_only_serves_gates_gets_the_first_order_effect_of_its_removal() -> None:
    torch.manual_seed(0)
    dense = ep.capture(Excite(), torch.randn(2, 3, 8, 8))
    batch = (_images(), torch.tensor([0, 1, 2, 0]))
    lrp = attribute(dense, [batch], Lrp(explained="evidence", epsilon=0))
    taylor = attribute(dense, [batch], Taylor(explained="evidence"))
    torch.testing.assert_close(lrp["reduce"], taylor["reduce"], rtol=1e-5, atol=1e-9)


def test_nothing_of_a_gate_reaches_the_signal() -> None:
    dense = _captured(Residual)
    paths = find_paths(GatedModel(dense))
    modules = {n.meta["module"] for n in dense.module.graph.nodes if n.name not in paths.trunk}
    assert {"reduce", "expand"} <= modules
    assert not {"stem", "bn", "conv1", "gn", "conv2", "head"} & modules


def test_the_docstring_states_the_patent_and_what_the_authors_allow() -> None:
    assert "patented in some jurisdictions" in (Lrp.__doc__ or "")
    assert "permit personal" in (Lrp.__doc__ or "")

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.capture import Captured, capture
from edgeprune.errors import EdgepruneError
from edgeprune.gates import GatedModel

from .models import TINY, images

CaptureOf = Callable[..., Captured]


@pytest.mark.parametrize("name", TINY)
def test_gates_of_one_give_the_dense_model(name: str, capture_of: CaptureOf) -> None:
    dense = capture_of(name)
    gated = GatedModel(dense)
    assert torch.allclose(gated(images(3), gated.ones()), dense.module(images(3)), atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_gates_by_sample_equal_one_sample_at_a_time(name: str, capture_of: CaptureOf) -> None:
    gated = GatedModel(capture_of(name))
    gates = torch.rand(3, gated.total, generator=torch.Generator().manual_seed(0))
    together = gated(images(3), gates)
    alone = [gated(images(3)[i : i + 1], gates[i : i + 1]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_all_images_run_together(name: str, capture_of: CaptureOf) -> None:
    assert GatedModel(capture_of(name)).by_sample


class Shared(nn.Module):
    """A weight that is standardised: every row of gates makes another of it, for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(6, 8, 1, 1))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.layer_norm(self.weight, (8, 1, 1))
        return self.head(F.conv2d(self.conv(x), weight).mean((2, 3)))


class Mixed(nn.Module):
    """The same, for a fixed number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Shared()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.reshape(2, 3, 12, 12))


@pytest.mark.parametrize("model", [Shared, Mixed])
def test_what_all_images_share_takes_one_row_of_gates_at_a_time(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    gated = GatedModel(dense := capture(model().eval(), images(2)))
    assert dense.dynamic_batch == (model is Shared)
    assert not gated.by_sample
    gates = torch.rand(2, gated.total)
    x = images(2)
    alone = [gated(x[[i, i]], gates[i : i + 1])[:1] for i in range(2)]
    assert torch.allclose(gated(x, gates), torch.cat(alone), atol=1e-6)
    with pytest.raises(EdgepruneError, match="not laid out by sample; score one sample"):
        gated.interpreter(gates).run(x)


class Interleaved(nn.Module):
    """Images lie between blocks of a dimension: (block, image, position)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = self.conv(x).permute(2, 0, 3, 1).reshape(3 * n * 3, 8)
        return self.head(F.relu(self.mix(y)).reshape(3, n, 3, 6).mean((0, 2)))


def test_images_between_blocks_of_a_dimension_are_found() -> None:
    torch.manual_seed(0)
    gated = GatedModel(capture(Interleaved().eval(), images(2)))
    assert gated.by_sample
    gates, x = torch.rand(3, gated.total), images(3)
    alone = [gated(x[i : i + 1], gates[i : i + 1]) for i in range(3)]
    assert torch.allclose(gated(x, gates), torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_every_group_has_gates_that_matter(name: str, capture_of: CaptureOf) -> None:
    gated = GatedModel(capture_of(name))
    gates = gated.ones(16).requires_grad_()
    gated(images(16), gates).square().sum().backward()
    for group, gradient in gated.by_group(gates.grad).items():
        # A unit that a ReLU silences on every image has none.
        assert gradient.abs().sum(0).gt(0).float().mean() >= 0.4, group


def test_a_gate_scales_what_its_reader_sees(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    gated = GatedModel(dense)
    gates = gated.ones()
    gated.by_group(gates)["hidden"][0, 2] = 0.25
    weight = dense.module.get_parameter("head.weight")
    before = weight.detach().clone()
    actual = gated(images(2), gates)
    with torch.no_grad():
        weight[:, 2] *= 0.25
        expected = dense.module(images(2))
        weight.copy_(before)
    assert torch.allclose(actual, expected, atol=1e-6)


def test_a_layer_norm_with_a_gate_of_zero_is_that_of_the_other_channels(
    capture_of: CaptureOf,
) -> None:
    dense = capture_of("Transformer")
    gated = GatedModel(dense)
    keep = np.ones(12, np.bool_)
    keep[[1, 5]] = False
    interpreter = gated.interpreter(gated.from_masks({"patches": keep}))
    node = next(n for n in dense.module.graph.nodes if n.name == "layer_norm")
    x = torch.randn(2, 10, 12)
    weight, bias = torch.rand(12), torch.rand(12)
    (gates,) = gated.statistics["layer_norm"]
    arguments = {
        "input": x, "normalized_shape": [12], "weight": weight, "bias": bias, "eps": 1e-5,
    }  # fmt: skip
    normal = interpreter.weigh(node, arguments, interpreter.along(node, gates, x))
    kept = torch.from_numpy(keep)
    expected = F.layer_norm(x[..., kept], (10,), weight[kept], bias[kept])
    assert torch.allclose(normal[..., kept], expected, atol=1e-5)
    plain = F.layer_norm(x, (12,), weight, bias)[..., kept]
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_gates_of_zero_give_numbers_even_where_nothing_is_left(capture_of: CaptureOf) -> None:
    for name in ("Transformer", "Grouped"):
        gated = GatedModel(capture_of(name))
        assert gated(images(2), 0 * gated.ones()).isfinite().all()


def test_gates_are_laid_out_by_group(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    gated = GatedModel(dense)
    parts = gated.by_group(torch.arange(gated.total)[None])
    assert [p.shape[-1] for p in parts.values()] == [g.size for g in analyse(dense).groups]
    assert torch.cat(list(parts.values()), 1).tolist() == [list(range(gated.total))]


def test_gates_of_another_model_are_refused(capture_of: CaptureOf) -> None:
    gated = GatedModel(capture_of("Chain"))
    with pytest.raises(EdgepruneError, match=r"gates of shape \(1, 3\)"):
        gated(images(1), torch.ones(1, 3))


def test_gates_for_fewer_samples_than_images_are_refused(capture_of: CaptureOf) -> None:
    gated = GatedModel(capture_of("Chain"))
    with pytest.raises(EdgepruneError, match="2 rows of gates for 3 images"):
        gated(images(3), gated.ones(2))


class TokensBehindNormalisation(nn.Module):
    """Batch normalisation whose gradient comes back in the order of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
        self.fc, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(
            self.bn(self.conv(F.relu(self.stem(x)))).flatten(2).permute(2, 0, 1).contiguous()
        )
        return self.head(self.fc(x).square().mean(0))


def test_gradients_of_one_image_are_those_it_has_among_others() -> None:
    torch.manual_seed(0)
    dense = capture(TokensBehindNormalisation(), torch.randn(2, 3, 8, 8))
    images = torch.randn(2, 3, 8, 8)
    model = GatedModel(dense)
    alone, among = model.ones(1).requires_grad_(), model.ones(2).requires_grad_()
    model(images[:1], alone)[0, 1].backward()
    model(images, among)[0, 1].backward()
    assert alone.grad is not None
    assert among.grad is not None
    torch.testing.assert_close(alone.grad[0], among.grad[0])

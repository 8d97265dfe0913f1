from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.attribution.activation import Activation
from edgeprune.attribution.criterion import Batch
from edgeprune.capture import Captured, capture
from edgeprune.gates import GatedModel

from .models import CLASSES, TINY, Chain, build, images

CaptureOf = Callable[..., Captured]


def _batch(count: int = 3) -> Batch:
    return Batch(images=images(count), labels=torch.empty(0), multi_label=False)


def _found(dense: Captured, batch: Batch) -> dict[str, Tensor]:
    model = GatedModel(dense)
    return model.by_group(Activation().per_sample(model, 0)(batch))


class _Read(nn.Module):
    """Notes what modules read."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model, self.values = model, dict[str, Tensor]()
        for name in names:
            model.get_submodule(name).register_forward_pre_hook(partial(self._note, name))

    def _note(self, name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.values[name] = given[0]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            self.model(x)
        return self.values


def test_an_activation_is_the_mean_of_what_the_reader_sees(capture_of: CaptureOf) -> None:
    found = _found(capture_of("Chain"), _batch())
    model = build("Chain")
    assert isinstance(model, Chain)
    seen = _Read(model, "conv2", "hidden", "head")(images(3))
    expected = {
        "conv1": seen["conv2"].abs().mean((2, 3)),
        "conv2": seen["hidden"].abs().unflatten(1, (12, 9)).mean(2),
        "hidden": seen["head"].abs(),
    }
    assert [*found] == [*expected]
    for name, values in expected.items():
        torch.testing.assert_close(found[name].float(), values)


def test_a_unit_with_several_readers_counts_all_their_positions(capture_of: CaptureOf) -> None:
    found = _found(capture_of("Residual"), _batch())
    seen = _Read(build("Residual"), "reduce", "head")(images(3))
    spatial = seen["reduce"].abs().sum((2, 3))
    expected = (spatial + seen["head"].abs()) / (seen["reduce"][0, 0].numel() + 1)
    torch.testing.assert_close(found["stem"].float(), expected)


@pytest.mark.parametrize(("name", "first"), [("Transformer", "qkv"), ("TokensFirst", "attention")])
def test_a_residual_stream_counts_where_its_norms_are_read(
    name: str, first: str, capture_of: CaptureOf
) -> None:
    found = _found(capture_of(name), _batch())
    seen = _Read(build(name), first, "up", "down", "head")(images(3))
    tokens = 1 if name == "Transformer" else 0
    sums = seen[first].abs().sum(tokens) + seen["up"].abs().sum(1) + seen["head"].abs()
    torch.testing.assert_close(found["patches"].float(), sums / (2 * seen["up"].shape[1] + 1))
    torch.testing.assert_close(found["up"].float(), seen["down"].abs().mean(1))


def test_heads_are_told_apart_in_the_projection_that_reads_them(capture_of: CaptureOf) -> None:
    for name in ("Transformer", "MergedHeads"):
        found = _found(capture_of(name), _batch())
        read = _Read(build(name), "proj")(images(3))["proj"].abs().unflatten(2, (3, 4))
        torch.testing.assert_close(found["qkv:heads"].float(), read.mean((1, 3)))


def test_dimensions_of_heads_that_are_merged_into_the_batch_belong_to_their_image(
    capture_of: CaptureOf,
) -> None:
    found = _found(capture_of("MergedHeads"), _batch())
    seen = _Read(build("MergedHeads"), "qkv", "proj")(images(3))
    query = nn.functional.linear(seen["qkv"], *_first_third(build("MergedHeads")))
    expected = query.abs().unflatten(2, (3, 4)).mean((1, 2))
    torch.testing.assert_close(found["qkv:head_dim"].float(), expected)
    values = seen["proj"].abs().unflatten(2, (3, 4)).mean((1, 2))
    torch.testing.assert_close(found["qkv:head_dim#2"].float(), values)


def _first_third(model: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = (model.get_parameter(f"qkv.{name}").detach() for name in ("weight", "bias"))
    return weight[:12], bias[:12]


@pytest.mark.parametrize("name", TINY)
def test_images_have_the_same_activations_in_any_batch(name: str, capture_of: CaptureOf) -> None:
    together = _found(capture_of(name), _batch(4))
    singly = [_found(capture_of(name), _batch(4).part(index, 1)) for index in range(4)]
    for group, values in together.items():
        alone = torch.cat([found[group] for found in singly])
        torch.testing.assert_close(values, alone, rtol=1e-4, atol=1e-7)
        assert values.min() >= 0
        assert values.max() > 0


class Measured(nn.Module):
    """Channels that nothing but their mean reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(100, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean(1).flatten(1))


def test_units_of_a_statistic_alone_count_with_what_it_sees() -> None:
    torch.manual_seed(0)
    model = Measured().eval()
    found = _found(capture(model, images(2)), _batch())
    expected = model.conv(images(3)).abs().mean((2, 3)).detach()
    torch.testing.assert_close(found["conv"].float(), expected)


class Positions(nn.Module):
    """Positions are computed by a network of their own, once for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = nn.Buffer(torch.rand(9, 2))
        self.embed, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, CLASSES)
        self.fc1, self.fc2 = nn.Linear(2, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((x + self.fc2(self.fc1(self.coordinates).relu())).relu().mean(1))


def test_units_that_no_image_reaches_are_the_same_for_all() -> None:
    torch.manual_seed(0)
    model = Positions().eval()
    found = _found(capture(model, images(2)), _batch())
    expected = model.fc1(model.coordinates).relu().mean(0).detach()
    torch.testing.assert_close(found["fc1"].float(), expected.expand(3, -1))
    assert not torch.allclose(found["embed"][0], found["embed"][1])


class Standardised(nn.Module):
    """A weight that is standardised over the units that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv2d(3, 8, 3), nn.Parameter(100 * torch.rand(6, 8, 1, 1))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.layer_norm(self.weight, (8, 1, 1))
        return self.head(F.conv2d(self.conv(x), weight).mean((2, 3)))


class FixedStandardised(Standardised):
    """The same, for three images, no more and no fewer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(3, 3, 12, 12))


@pytest.mark.parametrize("kind", [Standardised, FixedStandardised])
def test_weights_are_no_activations(kind: type[Standardised]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    dense = capture(model, images(3))
    assert not GatedModel(dense).by_sample
    expected = model.conv(images(3)).abs().mean((2, 3)).detach()
    torch.testing.assert_close(_found(dense, _batch())["conv"].float(), expected)


class Recurrent(nn.Module):
    """A recurrent layer, whose own weights carry gates beside what the head reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 4, 3), nn.LSTM(40, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).relu().permute(0, 2, 1, 3).flatten(2)
        return self.head(self.layer(rows)[0][:, -1])


def test_recurrent_weights_are_no_activations_either() -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    found = _found(capture(model, images(3)), _batch())
    torch.testing.assert_close(
        found["layer"].float(), _Read(model, "head")(images(3))["head"].abs()
    )


def test_a_silent_unit_has_none_and_labels_are_not_looked_at(capture_of: CaptureOf) -> None:
    assert not Activation.needs_labels
    dense = capture_of("Chain").clone()
    for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"):
        dense.module.get_parameter(name).data[2] = 0
    found = _found(dense, _batch())
    assert found["conv1"][:, 2].tolist() == [0, 0, 0]
    assert found["conv1"].count_nonzero() == 3 * 7


def test_half_precision_gives_nearly_the_same(capture_of: CaptureOf) -> None:
    exact = _found(capture_of("Transformer"), _batch())
    with torch.autocast("cpu", torch.bfloat16):
        found = _found(capture_of("Transformer"), _batch())
    for name, values in exact.items():
        torch.testing.assert_close(found[name], values, rtol=0.05, atol=0.01)

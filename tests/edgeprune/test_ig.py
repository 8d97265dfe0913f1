from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeprune.attribution import Integrated, Taylor
from edgeprune.attribution.activation import Activation
from edgeprune.attribution.criterion import Batch, Explained, objective
from edgeprune.attribution.sensitivity import Sensitivity
from edgeprune.attribution.shapley import Shapley
from edgeprune.capture import Captured, capture
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

from .models import CLASSES, TINY, images

CaptureOf = Callable[..., Captured]


def _batch(count: int = 3) -> Batch:
    labels = torch.arange(count) % CLASSES
    return Batch(images=images(count), labels=labels, multi_label=False)


def _loss_of_groups(model: GatedModel, batch: Batch, explained: Explained) -> dict[str, Tensor]:
    """Return what the target loses when a whole group goes, (N,)."""

    def target(gates: Tensor) -> Tensor:
        return objective(model(batch.images, gates), batch.labels, explained, False)

    found = {}
    with torch.no_grad():
        for name in model.by_group(model.ones()):
            gates = model.ones()
            model.by_group(gates)[name].zero_()
            found[name] = target(model.ones()) - target(gates)
    return found


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("explained", ["evidence", "loss"])
def test_one_group_at_a_time_is_complete_within_one_percent(
    name: str, explained: Explained, capture_of: CaptureOf
) -> None:
    model, batch = GatedModel(capture_of(name)), _batch()
    _check_complete(model, batch, Integrated(explained=explained, steps=64, groups="single"))


@pytest.mark.parametrize("name", ["Concatenated", "SqueezeExcite"])
def test_the_margin_is_complete_with_more_steps(name: str, capture_of: CaptureOf) -> None:
    # It has a kink wherever another class becomes the runner-up.
    model, batch = GatedModel(capture_of(name)), _batch()
    _check_complete(model, batch, Integrated(explained="margin", steps=256, groups="single"))


def _check_complete(model: GatedModel, batch: Batch, criterion: Integrated) -> None:
    found = model.by_group(criterion.per_sample(model, 0)(batch))
    explained = criterion.explained
    for group, expected in _loss_of_groups(model, batch, explained).items():
        error = (found[group].sum(1) - expected).abs().max()
        assert error <= 0.01 * expected.abs().max(), group


class Recurrent(nn.Module):
    """An LSTM over the rows of a feature map: all images share the weights that carry gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(3, 4, 3), nn.LSTM(40, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).relu().permute(0, 2, 1, 3).flatten(2)
        return self.head(self.lstm(rows)[0][:, -1])


def test_images_that_share_what_carries_gates_are_integrated_too() -> None:
    torch.manual_seed(0)
    model = GatedModel(capture(Recurrent().eval(), images(3)))
    assert not model.by_sample
    _check_complete(model, _batch(), Integrated(steps=64, groups="single"))


class Unread(nn.Module):
    """Half of the channels are thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x)[:, :3].relu().mean((2, 3)))


def test_a_group_that_nobody_reads_gets_nothing() -> None:
    torch.manual_seed(0)
    model = GatedModel(capture(Unread().eval(), images(3)))
    unread, read = sorted(model.by_group(torch.zeros(1, model.total)))[::-1]
    for criterion in (Integrated(groups="single"), Sensitivity(), Activation(), Shapley()):
        found = model.by_group(criterion.per_sample(model, 0)(_batch()))
        assert found[unread].tolist() == [[0, 0, 0]] * 3
        assert found[read].abs().sum() > 0


def test_one_group_at_a_time_is_not_all_together(capture_of: CaptureOf) -> None:
    model, batch = GatedModel(capture_of("Residual")), _batch()
    single = Integrated(groups="single").per_sample(model, 0)(batch)
    together = Integrated().per_sample(model, 0)(batch)
    assert not torch.allclose(single, together, rtol=0.1)


def test_where_the_target_is_linear_in_the_gates_the_path_does_not_matter(
    capture_of: CaptureOf,
) -> None:
    # Nothing but the last linear layer reads this group.
    model, batch = GatedModel(capture_of("Chain")), _batch()
    single = Integrated(steps=1, groups="single").per_sample(model, 0)(batch)
    slopes = Taylor(explained="evidence").per_sample(model, 0)(batch)
    torch.testing.assert_close(
        model.by_group(single)["hidden"], model.by_group(slopes)["hidden"], rtol=1e-4, atol=1e-6
    )


def test_paths_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match="0 steps integrate nothing"):
        Integrated(steps=0)
    with pytest.raises(UsageError, match="groups 'all': use together or single"):
        Integrated(groups="all")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="explained is 'logit': use loss, evidence or margin"):
        Integrated(explained="logit")  # type: ignore[arg-type]

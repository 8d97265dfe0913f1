from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation
from torch import Tensor, nn

from edgeprune.attribution import Taylor, attribute
from edgeprune.attribution.criterion import Batch, Explained, objective
from edgeprune.attribution.rerun import Rerun, readers_onwards
from edgeprune.attribution.sensitivity import Sensitivity
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

from .models import CLASSES, TINY, images, plan_of

CaptureOf = Callable[..., Captured]


class Recurrent(nn.Module):
    """An LSTM over the rows of a feature map: all images share the weights that carry gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(3, 4, 3), nn.LSTM(40, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).relu().permute(0, 2, 1, 3).flatten(2)
        return self.head(self.lstm(rows)[0][:, -1])


class Fixed(nn.Module):
    """Takes three images, no more and no fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(3, 6, 3), nn.Linear(6, 7)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3)).reshape(3, 6)
        return self.head(F.gelu(self.hidden(x)))


class FixedRecurrent(Recurrent):
    """Both at once."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(3, 3, 12, 12))


class InPlace(nn.Module):
    """Writes what a unit changes into a value that no unit changes, through a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 4, 3)
        self.third, self.head = nn.Conv2d(4, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.first(x)
        whole.flatten(2).add_(self.third(self.second(x).relu()).flatten(2))
        return self.head(whole.relu().mean((2, 3)))


ODD = {kind.__name__: kind for kind in (Recurrent, Fixed, FixedRecurrent, InPlace)}


def _captured(name: str, capture_of: CaptureOf) -> Captured:
    if name in TINY:
        return capture_of(name)
    torch.manual_seed(0)
    return capture(ODD[name]().eval(), images(3))


def _batch(count: int = 3) -> Batch:
    labels = torch.arange(count) % CLASSES
    return Batch(images=images(count), labels=labels, multi_label=False)


@pytest.mark.parametrize("name", [*TINY, *ODD])
def test_leaving_a_unit_out_equals_cutting_it(name: str, capture_of: CaptureOf) -> None:
    dense = _captured(name, capture_of)
    model, batch = GatedModel(dense), _batch()
    changes = model.by_group(Sensitivity().per_sample(model, 0)(batch))
    with torch.no_grad():
        whole = F.cross_entropy(dense.module(batch.images), batch.labels, reduction="none")
        for group in model.analysis.groups:
            gone = int(changes[group.name].abs().sum(0).argmax())
            slim = cut(dense, plan_of(dense, {group.name: {*range(group.size)} - {gone}}))
            left = F.cross_entropy(slim.module(batch.images), batch.labels, reduction="none")
            found = changes[group.name][:, gone]
            torch.testing.assert_close(found, whole - left, rtol=1e-3, atol=1e-5)
            assert found.abs().max() > 1e-4, group.name


@pytest.mark.parametrize("name", ["Transformer", "Concatenated", "SqueezeExcite"])
@pytest.mark.parametrize("explained", ["loss", "margin"])
def test_sensitivity_equals_feature_ablation_on_gates(
    name: str, explained: Explained, capture_of: CaptureOf
) -> None:
    model, batch = GatedModel(capture_of(name)), _batch()
    ablation = FeatureAblation(
        lambda gates: objective(model(batch.images, gates), batch.labels, explained, False)
    )
    expected = ablation.attribute(model.ones(len(batch)))
    found = Sensitivity(explained=explained).per_sample(model, 0)(batch)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_how_many_rows_run_at_once_changes_nothing(rows: int, capture_of: CaptureOf) -> None:
    model, batch = GatedModel(capture_of("Transformer")), _batch()
    expected = Sensitivity().per_sample(model, 0)(batch)
    found = Sensitivity(rows=rows).per_sample(model, 0)(batch)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_no_more_rows_run_at_once_than_asked_for(
    capture_of: CaptureOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    run = Rerun.under

    def counted(self: Rerun, gates: Tensor, group: str) -> Tensor:
        logits = run(self, gates, group)
        seen.append(len(logits))
        return logits

    monkeypatch.setattr(Rerun, "under", counted)
    Sensitivity(rows=10).per_sample(GatedModel(capture_of("Chain")), 0)(_batch())
    assert set(seen) == {9}


@pytest.mark.parametrize("name", [*TINY, *ODD])
def test_a_rerun_from_the_first_reader_on_equals_a_whole_run(
    name: str, capture_of: CaptureOf
) -> None:
    model = GatedModel(_captured(name, capture_of))
    rerun = Rerun(model, readers_onwards(model), images(3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # a run must leave nothing behind for the next
        for group in model.analysis.groups:
            gates = model.ones()
            part = model.by_group(gates)[group.name]
            part.copy_(torch.rand(part.shape, generator=generator))
            with torch.no_grad():
                torch.testing.assert_close(rerun.under(gates, group.name), model(images(3), gates))


def test_only_what_depends_on_a_group_runs_again(capture_of: CaptureOf) -> None:
    later = readers_onwards(GatedModel(capture_of("Chain")))
    sizes = [len(nodes) for nodes in later.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert [node.op for node in later["hidden"]] == ["call_function", "output"]


def test_the_sign_is_that_of_taylor_and_a_dead_unit_has_none(capture_of: CaptureOf) -> None:
    model, batch = GatedModel(_captured("Fixed", capture_of)), _batch()
    changes = Sensitivity(explained="evidence").per_sample(model, 0)(batch)
    slopes = Taylor(explained="evidence").per_sample(model, 0)(batch)
    # The head is linear in the hidden units: there the first term is all of it.
    torch.testing.assert_close(
        model.by_group(changes)["hidden"], model.by_group(slopes)["hidden"], rtol=1e-3, atol=1e-6
    )
    model.module.get_parameter("head.weight").data[:, 3] = 0
    left = Sensitivity().per_sample(model, 0)(batch)
    assert model.by_group(left)["hidden"][:, 3].tolist() == [0, 0, 0]


def test_findings_are_left_out_alike() -> None:
    torch.manual_seed(0)
    dense = capture(Recurrent().eval(), images(3))
    labels = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    scores = attribute(dense, [(images(3), labels)], Sensitivity(), multi_label=True)
    slim = cut(dense, plan_of(dense, {"conv": {1, 2, 3}}))
    with torch.no_grad():
        before, after = (
            F.binary_cross_entropy_with_logits(m.module(images(3)), labels, reduction="none")
            for m in (dense, slim)
        )
    expected = (before.sum(1) - after.sum(1)).abs().sum()
    assert float(scores["conv"][0]) == pytest.approx(float(expected), rel=1e-3)


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="0 rows run no image"):
        Sensitivity(rows=0)
    with pytest.raises(UsageError, match="explained is 'los': use loss, evidence or margin"):
        Sensitivity(explained="los")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="explained is 'los'"):
        replace(Taylor(), explained="los")  # type: ignore[arg-type]


def test_sensitivity_works_in_half_precision(capture_of: CaptureOf) -> None:
    model, batch = GatedModel(capture_of("Chain")), _batch()
    exact = Sensitivity().per_sample(model, 0)(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = Sensitivity().per_sample(model, 0)(batch)
    assert found.isfinite().all()
    assert float((found - exact).abs().max()) < 0.1 * float(exact.abs().max())

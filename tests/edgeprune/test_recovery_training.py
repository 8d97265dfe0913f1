import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from edgeprune.capture import CapturedModule, load_tensors, state
from edgeprune.data import PreparedSplit
from edgeprune.errors import DataError, EdgepruneError, UsageError
from edgeprune.recovery import (
    EpochRecord,
    TrainResult,
    TrainSettings,
    TrainStep,
    evaluate,
    fit,
    predict,
)
from edgeprune.recovery.training import learning_rate

from .recovery_case import Net, blobs, tiny

TRAIN, VAL = blobs(96), blobs(64, seed=1)
SETTINGS = TrainSettings(epochs=4, lr=5e-3, batch_size=16, augment=False, threads=1)


class StoppedError(Exception):
    """Raised from a progress callback, as if somebody had pressed Ctrl-C."""


class StopAt:
    """Stop when training has come to a step, or to the end of an epoch."""

    def __init__(self, epoch: int, step: int | None) -> None:
        self.epoch, self.step = epoch, step

    def __call__(self, told: TrainStep) -> None:
        here = told.step if told.record is None else None
        if (told.epoch, here) == (self.epoch, self.step):
            raise StoppedError


def _fit(
    model: torch.nn.Module,
    settings: TrainSettings = SETTINGS,
    *,
    train: PreparedSplit = TRAIN,
    val: PreparedSplit = VAL,
    **options: object,
) -> TrainResult:
    return fit(model, train, val, settings, multi_label=False, **options)  # type: ignore[arg-type]


def _tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state(model).items()}


def _same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    theirs = _tensors(second)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in _tensors(first).items())


def test_a_captured_model_learns_and_ends_in_evaluation_mode() -> None:
    model = tiny().module
    result = _fit(model)
    assert result.history[0].val_metric < 0.8
    assert result.best.val_metric > 0.95
    assert evaluate(model, blobs(64, seed=2), multi_label=False).metric > 0.9
    assert not model.training


def test_a_model_that_was_never_captured_learns_too() -> None:
    torch.manual_seed(0)
    assert _fit(Net()).best.val_metric > 0.95


def test_findings_are_learnt_and_judged_by_macro_auroc() -> None:
    model, val = tiny().module, blobs(64, seed=1, multi_label=True)
    result = fit(model, blobs(96, multi_label=True), val, SETTINGS, multi_label=True)
    scores, labels = predict(model, val).numpy(), val.split.labels
    areas = [roc_auc_score(labels[:, k], scores[:, k]) for k in range(2)]
    assert result.best.val_metric == pytest.approx(sum(areas) / 2)
    assert result.best.val_metric > 0.9


def test_the_model_holds_the_best_epoch() -> None:
    model = tiny().module
    # A rate at which the validation goes up and down.
    result = _fit(model, replace(SETTINGS, epochs=6, lr=0.05))
    seen = evaluate(model, VAL, multi_label=False, batch_size=16)
    keys = [(record.val_metric, -record.val_loss) for record in result.history]
    assert keys[result.best_epoch] == max(keys)
    assert keys[result.best_epoch] != keys[-1], "otherwise this test shows nothing"
    assert (seen.metric, seen.loss) == (result.best.val_metric, result.best.val_loss)


WRONG = PreparedSplit(replace(TRAIN.split, labels=1 - TRAIN.split.labels), TRAIN.how)


def test_training_that_only_harms_gives_back_the_model_as_it_was() -> None:
    trained = tiny()
    _fit(trained.module)
    model = trained.clone().module
    result = _fit(model, train=WRONG)
    assert result.best_epoch == 0
    assert result.history[-1].val_metric < 0.5
    assert _same(model, trained.module)


def test_equal_metrics_are_decided_by_the_loss() -> None:
    first = EpochRecord(epoch=1, train_loss=1.0, val_loss=0.5, val_metric=0.9, lr=0.1)
    assert replace(first, val_loss=0.4).better_than(first)
    assert not first.better_than(first)
    assert not replace(first, val_metric=0.8, val_loss=0.1).better_than(first)


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    settings = replace(SETTINGS, epochs=2, augment=True)
    models = [tiny().module for _ in range(3)]
    results = [_fit(m, replace(settings, seed=s)) for m, s in zip(models, (3, 3, 4), strict=True)]
    assert results[0] == results[1]
    assert _same(models[0], models[1])
    assert not _same(models[0], models[2])


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    before = torch.get_num_threads()
    _fit(tiny().module, replace(SETTINGS, epochs=1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("epoch", "step"), [(1, 3), (3, 1), (2, None), (4, None)])
@pytest.mark.parametrize("taught", [False, True])
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, epoch: int, step: int | None, taught: bool
) -> None:
    settings = replace(SETTINGS, augment=True, lr=0.02)
    teacher = tiny(seed=5).module if taught else None
    whole, stopped, resumed = (tiny().module for _ in range(3))
    expected = _fit(whole, settings, teacher=teacher)
    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(StoppedError):
        _fit(
            stopped,
            settings,
            teacher=teacher,
            checkpoint=checkpoint,
            progress=StopAt(epoch, step),
        )
    told: list[TrainStep] = []
    result = _fit(resumed, settings, teacher=teacher, checkpoint=checkpoint, progress=told.append)
    assert result == expected
    assert _same(whole, resumed)
    first = epoch if step is not None else epoch + 1
    assert {t.epoch for t in told} == set(range(first, settings.epochs + 1)), "nothing done twice"
    assert [path.name for path in tmp_path.iterdir()] == ["run.checkpoint"]


def test_the_best_epoch_outlives_an_interruption_that_comes_after_it(tmp_path: Path) -> None:
    start = tiny()
    _fit(start.module)
    path = tmp_path / "run.checkpoint"
    with pytest.raises(StoppedError):
        _fit(start.clone().module, train=WRONG, checkpoint=path, progress=StopAt(2, None))
    resumed = start.clone().module
    assert _fit(resumed, train=WRONG, checkpoint=path).best_epoch == 0
    assert _same(resumed, start.module)


def test_every_epoch_sees_the_images_in_another_order() -> None:
    model = Recording()
    _fit(model, replace(SETTINGS, epochs=2))
    first, second = model.seen[:6], model.seen[6:]
    assert len(second) == 6
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert first != second


class Recording(Net):
    """Remembers the brightness of each image that it is trained on, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append([round(value, 4) for value in x.mean((1, 2, 3)).tolist()])
        return super().forward(x)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path, settings = tmp_path / "run.checkpoint", replace(SETTINGS, epochs=1)
    _fit(tiny().module, settings, checkpoint=path)
    others: list[tuple[CapturedModule, TrainSettings, dict[str, object]]] = [
        (tiny(seed=1).module, settings, {}),
        (tiny().module, replace(settings, lr=0.1), {}),
        (tiny().module, settings, {"val": blobs(64, seed=7)}),
        (tiny().module, settings, {"teacher": tiny().module}),
    ]
    for model, asked, options in others:
        with pytest.raises(UsageError, match=r"'run.checkpoint' was written by .* remove it"):
            _fit(model, asked, checkpoint=path, **options)  # type: ignore[arg-type]
    _fit(tiny().module, replace(settings, threads=2), checkpoint=path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"'run.checkpoint' is damaged .*remove it"):
        _fit(tiny().module, checkpoint=path)


def test_patience_stops_once_nothing_gets_better() -> None:
    model = tiny().module
    _fit(model)
    result = _fit(model, replace(SETTINGS, epochs=9, patience=2), train=WRONG)
    assert (result.best_epoch, len(result.history)) == (0, 3)


def test_no_epochs_only_evaluate() -> None:
    model, other = tiny().module, tiny().module
    result = _fit(model, replace(SETTINGS, epochs=0))
    assert [record.epoch for record in result.history] == [0]
    assert _same(model, other)


def test_a_loss_that_is_no_number_names_the_epoch() -> None:
    model = tiny().module
    with torch.no_grad():
        model.get_parameter("head.weight").fill_(torch.inf)
    with pytest.raises(EdgepruneError, match="validation loss is nan before any training"):
        _fit(model)
    with pytest.raises(EdgepruneError, match=r"diverged in epoch [12].*lower than 0.9"):
        _fit(Exploding(), replace(SETTINGS, lr=0.9))


class Exploding(Net):
    """Gives infinite logits once its weights have moved."""

    def __init__(self) -> None:
        super().__init__()
        self.start = self.head.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        moved = (self.head.weight.detach() - self.start).abs().sum()
        return super().forward(x) / (moved == 0)


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    settings = TrainSettings(lr=0.01, warmup=0.2)
    rates = [learning_rate(settings, step / 100) for step in range(1, 101)]
    assert rates[9] == pytest.approx(0.005)
    assert max(rates) == rates[19] == pytest.approx(0.01)
    assert rates[59] == pytest.approx(0.01 * 0.505)
    assert rates[-1] == pytest.approx(0.0001)
    assert rates[:20] == sorted(rates[:20])
    assert rates[19:] == sorted(rates[19:], reverse=True)


def test_progress_tells_every_step_and_the_end_of_every_epoch() -> None:
    told: list[TrainStep] = []
    # 33 images in batches of 16: the last batch of one image is left out.
    result = _fit(tiny().module, replace(SETTINGS, epochs=2), train=blobs(33), progress=told.append)
    assert [(t.epoch, t.step, t.steps) for t in told if t.record is None] == [
        (1, 1, 2),
        (1, 2, 2),
        (2, 1, 2),
        (2, 2, 2),
    ]
    assert tuple(t.record for t in told if t.record) == result.history[1:]
    assert told[-1].lr == result.history[-1].lr == pytest.approx(SETTINGS.lr * 0.01)


def test_matrices_are_decayed_and_biases_and_norms_are_not(tmp_path: Path) -> None:
    one_step = replace(SETTINGS, epochs=1, batch_size=96)
    after = {}
    for decay in (0.0, 0.5):
        path = tmp_path / f"{decay}.checkpoint"
        _fit(tiny().module, replace(one_step, weight_decay=decay), checkpoint=path)
        after[decay] = load_tensors(path)
    rate = learning_rate(one_step, 1.0)
    for name, start in tiny().module.named_parameters():
        moved = after[0.5][f"model/{name}"] - after[0.0][f"model/{name}"]
        expected = -rate * 0.5 * start.detach() if start.dim() > 1 else torch.zeros_like(start)
        torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-7, msg=name)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="1 images cannot train"):
        _fit(tiny().module, train=blobs(1))
    with pytest.raises(DataError, match="'blobs' holds no images"):
        _fit(tiny().module, val=blobs(0))


def test_findings_that_never_vary_cannot_choose_an_epoch() -> None:
    val = blobs(6, multi_label=True)
    constant = replace(val.split, labels=val.split.labels * 0)
    with pytest.raises(DataError, match="AUROC is not defined"):
        fit(
            tiny().module,
            blobs(16, multi_label=True),
            PreparedSplit(constant, val.how),
            SETTINGS,
            multi_label=True,
        )


def test_a_finding_that_never_varies_is_left_out_of_the_average() -> None:
    val = blobs(32, multi_label=True)
    labels = val.split.labels.copy()
    labels[:, 1] = 1
    model = tiny().module
    seen = evaluate(
        model, PreparedSplit(replace(val.split, labels=labels), val.how), multi_label=True
    )
    assert seen.metric == pytest.approx(roc_auc_score(labels[:, 0], predict(model, val)[:, 0]))


def test_evaluation_does_not_depend_on_the_size_of_batches_and_keeps_the_mode() -> None:
    model = tiny().module.train()
    small, large = (predict(model, VAL, batch_size=size) for size in (3, 64))
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-6)
    assert model.training
    seen = evaluate(model, VAL, multi_label=False)
    hits = [int(row.argmax()) == label for row, label in zip(large, VAL.split.labels, strict=True)]
    assert seen.metric == sum(hits) / 64
    assert math.isfinite(seen.loss)

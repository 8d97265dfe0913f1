from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

import edgeprune as ep
from edgeprune.attribution.scores import Scores
from edgeprune.capture import Captured, state
from edgeprune.recovery import TrainResult, TrainSettings, evaluate, recover, train_dense

from .recovery_case import blobs, tiny

TRAIN, VAL = blobs(96), blobs(64, seed=1)
SETTINGS = TrainSettings(epochs=3, lr=5e-3, batch_size=16, augment=False, threads=1)


@cache
def _dense() -> Captured:
    return train_dense(tiny(), TRAIN, VAL, replace(SETTINGS, epochs=6), multi_label=False)[0]


@cache
def _slim() -> Captured:
    """Cut a trained model at random, so that there is something to recover."""
    groups = ep.channel_groups(_dense())
    generator = torch.Generator().manual_seed(4)
    values = {
        group.name: torch.rand(group.size, generator=generator, dtype=torch.float64)
        for group in groups
    }
    scores = Scores(criterion="random", values=values)
    return ep.cut(_dense(), ep.make_plan(_dense(), scores, ep.Budget(keep=0.2), align=1))


def _recover(slim: Captured, **options: Path) -> tuple[Captured, TrainResult]:
    return recover(slim, _dense(), TRAIN, VAL, SETTINGS, multi_label=False, **options)


def _same(first: Captured, second: Captured) -> bool:
    theirs = state(second.module)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in state(first.module).items())


def test_a_dense_model_is_trained_as_a_copy() -> None:
    given = tiny()
    trained, result = train_dense(given, TRAIN, VAL, SETTINGS, multi_label=False)
    assert _same(given, tiny())
    assert not _same(given, trained)
    seen = evaluate(trained.module, VAL, multi_label=False, batch_size=SETTINGS.batch_size)
    assert seen.metric == result.best.val_metric


def test_a_cut_model_recovers_and_neither_model_is_changed() -> None:
    slim, dense = _slim().clone(), _dense().clone()
    before = evaluate(slim.module, VAL, multi_label=False).metric
    recovered, result = _recover(slim)
    after = evaluate(recovered.module, VAL, multi_label=False).metric
    assert before < 0.7
    assert after > 0.9
    assert after == result.best.val_metric
    assert result.recalibrated == 2
    assert _same(slim, _slim())
    assert _same(dense, _dense())
    assert recovered.plan == slim.plan


def test_recovery_reaches_every_parameter_of_a_cut_model() -> None:
    slim = _slim()
    sizes = {name: p.numel() for name, p in _dense().module.named_parameters()}
    assert all(
        p.numel() < sizes[name] for name, p in slim.module.named_parameters() if "conv" in name
    )
    recovered, result = _recover(slim)
    assert result.best_epoch > 0
    before = dict(slim.module.named_parameters())
    still = [
        name for name, p in recovered.module.named_parameters() if torch.equal(p, before[name])
    ]
    assert not still


def test_recovery_begins_from_new_statistics() -> None:
    slim = _slim()
    _, result = _recover(slim)
    before = evaluate(slim.module, VAL, multi_label=False)
    assert result.history[0].val_loss < before.loss


def test_the_teacher_takes_part() -> None:
    taught, _ = _recover(_slim())
    alone, _ = recover(
        _slim(), _dense(), TRAIN, VAL, replace(SETTINGS, distill_weight=0.0), multi_label=False
    )
    assert not _same(taught, alone)


def test_recovery_continues_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "recovery.checkpoint"
    whole, expected = _recover(_slim())
    first, _ = _recover(_slim(), checkpoint=path)
    again, result = _recover(_slim(), checkpoint=path)
    assert result == expected
    assert _same(whole, first)
    assert _same(whole, again)


def test_a_recovered_model_is_stored_and_read_back(tmp_path: Path) -> None:
    recovered, _ = _recover(_slim())
    recovered.save(tmp_path / "slim")
    assert _same(recovered, ep.load(tmp_path / "slim"))

"""One family with edgeprune: captured, cut, proven, exported, trained.

Runs as a process of its own, ``python -m peers.coverage_edgeprune FAMILY FILE``.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune import Budget, Captured, Plan, analyse, capture, cut, make_plan, verify_cut
from edgeprune.axes import Analysis
from edgeprune.capture import trainable
from edgeprune.plan import GroupPlan, RemovedUnit
from peers.coverage_checks import (
    BATCH,
    SEED,
    check_exports,
    check_training,
    memory,
    reset_peak,
    sizes,
    weight_bytes,
)
from peers.coverage_journal import Journal
from peers.coverage_limits import limit_memory
from tests.edgeprune.families import FAMILIES, family, pictures
from tests.edgeprune.models import random_plan, random_scores

SHARE: Final = 0.5
Masks = dict[str, NDArray[np.bool_]]


def main(name: str, path: Path) -> None:
    """Take one family all the way; what fails is noted, and the rest goes on where it can."""
    model_name, size = FAMILIES[name]
    facts = {"family": name, "tool": "edgeprune", "model": model_name, "size": size}
    journal = Journal(path, facts)
    _warm_up()
    model, images = family(name).model, pictures(4, size)
    journal.note({"params": sum(p.numel() for p in model.parameters())})
    dense = journal.run("capture", partial(capture, model, images[:BATCH]))
    del model
    if dense is not None:
        _prune(journal, dense, images)
    journal.finish()


def _warm_up() -> None:
    """Load what analysis and cut load on first use, so that it counts for no family."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    dense = capture(model, torch.randn(2, 3, 8, 8))
    analysis = analyse(dense)
    cut(dense, plan_of_masks(analysis, half_of_each_group(analysis)))


def _prune(journal: Journal, dense: Captured, images: Tensor) -> None:
    held = reset_peak()
    analysis = journal.run("analyse", partial(analyse, dense))
    if analysis is None:
        return
    masks = half_of_each_group(analysis)
    plan = plan_of_masks(analysis, masks)
    journal.note(_counts(dense, analysis, masks))
    del analysis  # as for a user, who holds a plan when it comes to the cut
    slim = journal.run("cut", partial(cut, dense, plan))
    journal.note(memory(held, weight_bytes(dense.module)))
    if slim is None:
        return
    journal.note({"kept": sum(p.numel() for p in slim.module.parameters())})
    proof = journal.run("proof", partial(verify_cut, dense, slim, plan, images[:BATCH]))
    if proof is not None:
        journal.note({"max_rel": proof.max_rel, "changed": proof.changed})
    check_exports(journal, slim, images)
    step = partial(check_training, slim.module, images[:BATCH], everywhere=True)
    journal.run("train", step)
    del slim, step
    _prune_each_kind(journal, dense, plan, images)
    _prune_to_half_of_the_macs(journal, dense, images)


def _prune_each_kind(journal: Journal, dense: Captured, whole: Plan, images: Tensor) -> None:
    """Prove a cut of half of each kind of group alone."""
    proofs: dict[str, float | None] = {}
    for kind in dict.fromkeys(group.kind for group in whole.groups if group.removed):
        step = partial(_prove_kind, dense, kind, images)
        proofs[kind] = journal.run(f"proof_{kind}", step)
        journal.note({"kinds_max_rel": proofs})


def _prune_to_half_of_the_macs(journal: Journal, dense: Captured, images: Tensor) -> None:
    scores = random_scores(dense, seed=SEED)
    plan = journal.run("plan", partial(make_plan, dense, scores, Budget(macs=SHARE)))
    if plan is None:
        return
    proof = journal.run("proof_macs", partial(_cut_and_verify, dense, plan, images))
    if proof is not None:
        left = plan.predicted["macs"] / plan.dense["macs"]
        journal.note({"macs": left, "macs_max_rel": proof})


def _prove_kind(dense: Captured, kind: str, images: Tensor) -> float:
    return _cut_and_verify(dense, random_plan(dense, kind, share=SHARE), images)


def _cut_and_verify(dense: Captured, plan: Plan, images: Tensor) -> float:
    return verify_cut(dense, cut(dense, plan), plan, images[:BATCH]).max_rel


def half_of_each_group(analysis: Analysis) -> Masks:
    """Keep half of the units of each group by chance, rounded down as the peer does."""
    masks: Masks = {}
    for group in analysis.groups:
        rng = np.random.default_rng([SEED, len(masks)])
        masks[group.name] = np.zeros(group.size, np.bool_)
        masks[group.name][rng.permutation(group.size)[: max(1, group.size // 2)]] = True
    return masks


def plan_of_masks(analysis: Analysis, masks: Masks) -> Plan:
    """Return the plan that keeps what the masks say."""
    groups = []
    for group in analysis.groups:
        kept = np.flatnonzero(masks[group.name]).tolist()
        gone = sorted(set(range(group.size)) - set(kept))
        removed = [RemovedUnit(unit=u, score=0.0, rank=1, most=None, reason="") for u in gone]
        groups.append(
            GroupPlan(
                name=group.name,
                kind=group.kind,
                size=group.size,
                kept=tuple(kept),
                removed=tuple(removed),
            )
        )
    return Plan(groups=tuple(groups), made_from={}, dense={}, predicted={})


def outer_groups(analysis: Analysis) -> frozenset[str]:
    """Name the groups that are the slower factor of an axis: heads, groups of convolutions.

    Such an axis shrinks twice when every group does. The peer halves its inner
    factor only, and is compared with that.
    """
    outer = np.zeros(len(analysis.slots), np.bool_)
    for axes in analysis.parameters.values():
        for axis in axes:
            if len(axis.columns) < 2:
                continue
            for column in axis.columns:
                if (column[1:] == column[:-1]).any():
                    outer[column[column >= 0]] = True
    return frozenset(group.name for group in analysis.groups if outer[group.units].all())


def _counts(dense: Captured, analysis: Analysis, masks: Masks) -> dict[str, object]:
    """Return what the plan predicts, and every shape when inner factors alone are halved."""
    names = trainable(dense.module)
    whole = outer_groups(analysis)
    inner = analysis.kept({name: mask for name, mask in masks.items() if name not in whole})
    shapes = sizes(dense.module)
    for name, axes in analysis.parameters.items():
        if name in shapes:
            shapes[name] = [inner.count(axis) for axis in axes]
    return {
        "predicted": analysis.count_parameters(names, analysis.kept(masks)),
        "equal": analysis.count_parameters(names, inner),
        "whole": len(whole),
        "dense_shapes": sizes(dense.module),
        "shapes": shapes,
        "frozen": {axis.parameter: list(axis.reasons) for axis in analysis.frozen},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    limit_memory()
    main(sys.argv[1], Path(sys.argv[2]))

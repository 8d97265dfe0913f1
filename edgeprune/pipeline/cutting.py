"""The stages from a dense model to a cut one: score, plan, cut, prove."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from edgeprune.attribution.scores import Scores
from edgeprune.attribution.storage import load_scores, save_scores
from edgeprune.axes import analyse
from edgeprune.capture import Captured, load
from edgeprune.cut import cut
from edgeprune.files import write_json
from edgeprune.pipeline.context import Context, batch_of
from edgeprune.pipeline.scoring import Scoring, score_units
from edgeprune.plan import Plan, make_plan
from edgeprune.verify import CutProof, verify_cut

PROOF_IMAGES: Final = 4


@dataclass(frozen=True, kw_only=True)
class CutModel:
    """A cut model before recovery, with its plan and proof."""

    model: Captured
    plan: Plan
    proof: CutProof


def rehearse(context: Context, dense: Captured) -> None:
    """Plan with equal scores, to see before any training whether a plan meets the budget.

    Raises:
        PlanError: none does.
    """
    groups = analyse(dense).groups
    even = Scores(criterion="none", values={group.name: torch.ones(group.size) for group in groups})
    settings = context.settings
    make_plan(dense, even, settings.budget, align=context.align, ranking=settings.ranking)


def score_stage(context: Context, dense: Captured) -> Scores:
    """Score every unit, on a few training images per class if the criterion looks at any."""
    settings = context.settings
    how = Scoring(
        criterion=settings.criterion,
        sampler=settings.sampler,
        per_class=settings.per_class,
        aggregate=settings.aggregate,
        batch_size=settings.scoring_batch,
        seed=settings.seed,
    )

    def make(folder: Path) -> None:
        scores = score_units(dense, context.train, context.data, how, context.reporter)
        save_scores(folder, scores)

    return context.stage("scores", f"Attribute: {how.words}", make, load_scores)


def cut_stage(context: Context, dense: Captured, scores: Scores) -> CutModel:
    """Plan, cut, and prove that the cut model equals the masked dense one."""
    settings = context.settings

    def make(folder: Path) -> None:
        plan = make_plan(
            dense, scores, settings.budget, align=context.align, ranking=settings.ranking
        )
        slim = cut(dense, plan)
        wanted = batch_of(dense, PROOF_IMAGES)
        chosen = context.spread(context.data.val, wanted)
        images = context.images(context.data.val, chosen)[torch.arange(wanted) % len(chosen)]
        proof = verify_cut(dense, slim, plan, images)
        context.reporter.say(proof_words(proof))
        proof.require()
        slim.save(folder)
        write_json(folder / "proof.json", asdict(proof))

    result = context.stage("cut", "Plan and cut", make, _read_cut)
    for note in result.plan.notes:
        context.reporter.say(note)
    return result


def proof_words(proof: CutProof) -> str:
    """Return what the proof found, in one line."""
    verdict = "equals" if proof.ok else "DIFFERS FROM"
    return (
        f"verify_cut: the cut model {verdict} the masked model: {proof.max_rel:.1e} relative on "
        f"{proof.samples} images (tolerance {proof.tolerance:.0e})"
    )


def _read_cut(folder: Path) -> CutModel:
    plan = Plan.from_dict(json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    proof = CutProof(**json.loads((folder / "proof.json").read_text(encoding="utf-8")))
    return CutModel(model=load(folder), plan=plan, proof=proof)

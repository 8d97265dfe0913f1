"""The stages from a dense model to a cut one: score, plan, cut, prove."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from edgeprune.attribution import attribute
from edgeprune.attribution.samplers import sample
from edgeprune.attribution.scores import Scores
from edgeprune.axes import analyse
from edgeprune.capture import Captured, load, load_tensors, save_tensors
from edgeprune.cut import cut
from edgeprune.data import batches
from edgeprune.files import write_json
from edgeprune.pipeline.checks import looks_at_images
from edgeprune.pipeline.context import Context, batch_of
from edgeprune.plan import Plan, make_plan
from edgeprune.verify import CutProof, verify_cut

SCORING_BATCH: Final = 16
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
    looks = looks_at_images(settings.criterion)
    where = f" on {settings.per_class} images per class, chosen by {settings.sampler}"

    def make(folder: Path) -> None:
        _store_scores(folder, _scored(context, dense) if looks else _unseen(context, dense))

    title = f"Attribute: {settings.criterion}{where if looks else ', without images'}"
    return context.stage("scores", title, make, _read_scores)


def _scored(context: Context, dense: Captured) -> Scores:
    settings, data = context.settings, context.data
    choice = sample(
        dense,
        context.train,
        sampler=settings.sampler,
        per_class=settings.per_class,
        seed=settings.seed,
        multi_label=data.multi_label,
        classes=data.classes,
    )
    images = batches(
        context.train, context.preprocessing, batch_size=SCORING_BATCH, indices=choice.indices
    )
    with context.reporter.track("scoring images", len(choice.indices)) as progress:
        return attribute(
            dense,
            images,
            criterion=settings.criterion,
            classes=data.classes,
            multi_label=data.multi_label,
            seed=settings.seed,
            sampler=settings.sampler,
            sample_ids=choice.ids,
            progress=progress,
        )


def _unseen(context: Context, dense: Captured) -> Scores:
    return attribute(dense, (), criterion=context.settings.criterion, seed=context.settings.seed)


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


def _store_scores(folder: Path, scores: Scores) -> None:
    tensors = {f"overall/{name}": values for name, values in scores.values.items()}
    for name, values in (scores.per_class or {}).items():
        tensors[f"class/{name}"] = values
    save_tensors(folder / "scores.safetensors", tensors)
    write_json(
        folder / "scores.json",
        {
            "criterion": scores.criterion,
            "classes": list(scores.classes),
            "sampler": scores.sampler,
            "samples": list(scores.samples),
        },
    )


def _read_scores(folder: Path) -> Scores:
    tensors = load_tensors(folder / "scores.safetensors")
    head = json.loads((folder / "scores.json").read_text(encoding="utf-8"))

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return Scores(
        criterion=head["criterion"],
        values=part("overall/"),
        per_class=part("class/") or None,
        classes=tuple(head["classes"]),
        sampler=head["sampler"],
        samples=tuple(head["samples"]),
    )

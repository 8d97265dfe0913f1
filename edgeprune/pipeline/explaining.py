"""``explain``: what one unit responds to, and why it stays or goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.analysis.explanation import ClassResponse, Explanation, ShownImage
from edgeprune.analysis.removal import attributions, removal
from edgeprune.analysis.responses import Reading, find_reading, responses, unit_maps
from edgeprune.attribution.criterion import Batch, SampleCriterion, direction
from edgeprune.attribution.registry import find_criterion
from edgeprune.attribution.samplers import NO_FINDING
from edgeprune.capture import MODULE
from edgeprune.data import ImageData, PreparedSplit, batches
from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.gates import GatedModel
from edgeprune.pipeline.opening import Opened, open_subject
from edgeprune.pipeline.storage import told_as_one_line
from edgeprune.pipeline.unit_evidence import (
    Evidence,
    alike,
    decision,
    find_evidence,
    find_unit,
    rivals_by_response,
    rivals_by_score,
    standing,
)
from edgeprune.pipeline.unit_images import mask_of, members, spread
from edgeprune.pipeline.unit_settings import ExplainSettings
from edgeprune.progress import Reporter, Silent
from edgeprune.report.explanation import explanation_page


@dataclass(frozen=True, kw_only=True, eq=False)
class _Looked:
    """A unit, and the images that were looked at.

    Attributes:
        opened: the model and the data.
        model: the model with gates.
        reading: where the unit's value is seen.
        unit: its index in the group.
        split: whose images.
        chosen: their positions in the split.
    """

    opened: Opened
    model: GatedModel
    reading: Reading
    unit: int
    data: ImageData
    split: PreparedSplit
    chosen: list[int]

    @property
    def slot(self) -> int:
        """The unit's place among the gates."""
        sizes = {group.name: group.size for group in self.model.analysis.groups}
        before = list(sizes).index(self.reading.group.name)
        return sum(list(sizes.values())[:before]) + self.unit


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What was seen of N images.

    Attributes:
        responses: of all units of the group, (N, size).
        attribution: of the decision to the unit, (N,).
        loss: its rise without the unit, (N,).
        changed: whether the answer is another one without it, bool (N,).
    """

    responses: Tensor
    attribution: Tensor
    loss: Tensor
    changed: Tensor


def explain_unit(
    settings: ExplainSettings, out: Path, *, reporter: Reporter | None = None
) -> Explanation:
    """Look at images through one unit, and write a page that shows what it responds to.

    Raises:
        EdgepruneError: the model, the unit, the images or the criterion cannot be
            used; nothing is written then.
    """
    reporter = reporter or Silent()
    if out.exists():
        raise UsageError(f"'{out}' exists already: choose another --out, or remove it")
    criterion = find_criterion(settings.criterion)
    if not isinstance(criterion, SampleCriterion):
        raise UsageError(
            f"criterion '{settings.criterion}' does not attribute single images: use another, as "
            "taylor, ig or lrp"
        )
    opened = open_subject(settings.subject, reporter, per_class=1)
    split = opened.prepared(settings.split)
    assert opened.data is not None and split is not None  # noqa: S101, PT018 - images were required
    model = GatedModel(opened.dense)
    group, unit = find_unit(model.analysis.groups, settings.unit)
    evidence = find_evidence(opened, model.analysis.groups, settings.scores)
    for note in evidence.notes:
        reporter.say(note)
    looked = _Looked(
        opened=opened,
        model=model,
        reading=find_reading(model, group),
        unit=unit,
        data=opened.data,
        split=split,
        chosen=spread(split.split.labels, settings.images, opened.seed),
    )
    reporter.stage(f"Look at {len(looked.chosen)} images through {settings.unit}")
    seen = _see(looked, criterion, settings.batch_size, reporter)
    explanation = _explanation(looked, seen, evidence, settings)
    with told_as_one_line(out):
        write_text(out, explanation_page(explanation))
    return explanation


def _see(looked: _Looked, criterion: SampleCriterion, batch_size: int, reporter: Reporter) -> _Seen:
    """Run all images, a batch at a time."""
    attribute = criterion.per_sample(looked.model, looked.opened.seed)
    sign, device = direction(criterion), looked.model.ones().device
    parts = []
    with reporter.track("images", len(looked.chosen)) as advance:
        for images, labels in batches(
            looked.split, looked.split.how, batch_size=batch_size, indices=looked.chosen
        ):
            batch = Batch(
                images=images.to(device),
                labels=labels.to(device),
                multi_label=looked.data.multi_label,
            )
            without = removal(looked.model, looked.slot, batch)
            parts.append(
                (
                    responses(looked.model, looked.reading, images),
                    sign * attributions(looked.model, attribute, looked.slot, batch),
                    without.loss,
                    without.changed,
                )
            )
            advance(sum(len(part[0]) for part in parts))
    whole = [torch.cat(each) for each in zip(*parts, strict=True)]
    return _Seen(responses=whole[0], attribution=whole[1], loss=whole[2], changed=whole[3])


def _explanation(
    looked: _Looked, seen: _Seen, evidence: Evidence, settings: ExplainSettings
) -> Explanation:
    group, unit, top = looked.reading.group, looked.unit, settings.top
    own = seen.responses[:, unit]
    varies = bool((own != own[0]).any())
    strongest = own.argsort(descending=True)[:top].tolist() if varies else []
    order = seen.attribution.argsort(descending=True)
    speaks_for = [i for i in order[:top].tolist() if seen.attribution[i] > 0]
    against = [i for i in order.flip(0)[:top].tolist() if seen.attribution[i] < 0]
    shown, where = _shown(looked, seen, [*strongest, *speaks_for, *against], settings.batch_size)
    classes = _classes(looked, seen)
    similar = alike(seen.responses, unit)
    most = _leading(looked, seen)
    return Explanation(
        model=looked.opened.name,
        group=group.name,
        kind=group.kind,
        unit=unit,
        size=group.size,
        reader=looked.reading.node.meta.get(MODULE) or looked.reading.node.name,
        averaged=looked.reading.averaged,
        where=where,
        criterion=settings.criterion,
        data=looked.data.name,
        split=settings.split,
        images=len(looked.chosen),
        decision=decision(evidence, group.name, unit),
        standing=standing(evidence, group.name, unit),
        loss=float(seen.loss.mean()),
        changed=int(seen.changed.sum()),
        classes=classes,
        strongest=tuple(shown[i] for i in strongest),
        speaks_for=tuple(shown[i] for i in speaks_for),
        speaks_against=tuple(shown[i] for i in against),
        by_score=rivals_by_score(evidence, group, unit, similar, most),
        by_response=rivals_by_response(evidence, group, unit, similar, most),
    )


def _shown(
    looked: _Looked, seen: _Seen, rows: Sequence[int], batch_size: int
) -> tuple[dict[int, ShownImage], str]:
    """Return pictures of images by their row, and how the maps came about."""
    wanted = list(dict.fromkeys(rows))
    positions = [looked.chosen[row] for row in wanted]
    maps, where = [], ""
    for images, _ in batches(
        looked.split, looked.split.how, batch_size=batch_size, indices=positions
    ):
        found, where = unit_maps(looked.model, looked.reading, looked.unit, images)
        maps += list(found.numpy())
    member = members(looked.split.split.labels, len(looked.data.classes))
    shown = {}
    for row, position, each in zip(wanted, positions, maps, strict=True):
        own = [
            name for name, is_of in zip(looked.data.classes, member[position], strict=True) if is_of
        ]
        shown[row] = ShownImage(
            id=looked.split.split.ids[position],
            label=", ".join(own) or NO_FINDING,
            response=float(seen.responses[row, looked.unit]),
            attribution=float(seen.attribution[row]),
            pixels=looked.split[position],
            map=each,
            mask=mask_of(looked.data, looked.split, position),
        )
    return shown, where


def _classes(looked: _Looked, seen: _Seen) -> tuple[ClassResponse, ...]:
    """Return means over the images of each class, and over those without any."""
    found = []
    for name, rows in _by_class(looked).items():
        found.append(
            ClassResponse(
                name=name,
                images=len(rows),
                response=float(seen.responses[rows, looked.unit].mean()),
                attribution=float(seen.attribution[rows].mean()),
                loss=float(seen.loss[rows].mean()),
                changed=int(seen.changed[rows].sum()),
            )
        )
    return tuple(found)


def _leading(looked: _Looked, seen: _Seen) -> list[str]:
    """Name for each unit of the group the class whose images drive it most."""
    by_class = _by_class(looked)
    means = torch.stack([seen.responses[rows].mean(0) for rows in by_class.values()])
    names = list(by_class)
    return [names[index] for index in means.argmax(0).tolist()]


def _by_class(looked: _Looked) -> dict[str, list[int]]:
    """Return the rows of each class that has any; under ``no finding`` those of none."""
    member = members(looked.split.split.labels, len(looked.data.classes))[looked.chosen]
    rows = {
        name: np.flatnonzero(member[:, index]).tolist()
        for index, name in enumerate(looked.data.classes)
    }
    rows[NO_FINDING] = np.flatnonzero(~member.any(1)).tolist()
    return {name: own for name, own in rows.items() if own}

"""What is compared: criteria with their settings, samplers and aggregations.

A row is one way to score. All criteria see the same images; those that run the
network once per unit see fewer, as many as a limit of multiply-accumulates
allows, and no row where not even one image per class fits.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from criteria_cases import Case, Trained
from edgeprune.attribution import ModelCriterion, Scores, attribute, find_criterion
from edgeprune.attribution.aggregation import Aggregate
from edgeprune.attribution.samplers import SampleChoice, Sampler, sample
from edgeprune.data import batches
from edgeprune.gates import GatedModel

SCORING_BATCH: Final = 16
PER_CLASS: Final = 10
OF_LOSS: Final = "taylor:explained=loss"
Table = Literal["criteria", "samplers", "aggregations"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to score units.

    Attributes:
        name: as tables and files call it.
        criterion: a specification, as ``--criterion`` takes it.
        tables: where it is shown.
        sampler, aggregate: how images are chosen, and summed.
        models, data: the networks and data sets that it is for; empty for all.
        macs: of scoring, at most; it is then given fewer images. None for any number.
    """

    name: str
    criterion: str
    tables: tuple[Table, ...] = ("criteria",)
    sampler: Sampler = "cluster"
    aggregate: Aggregate = "absolute"
    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    macs: float | None = None

    def suits(self, case: Case) -> bool:
        """Say whether it is for a case."""
        models, data = self.models or (case.model,), self.data or (case.data,)
        return case.model in models and case.data in data


def _row(criterion: str, *, macs: float | None = None, models: tuple[str, ...] = ()) -> Row:
    return Row(name=criterion, criterion=criterion, macs=macs, models=models)


def _sampled(criterion: str, sampler: Sampler) -> Row:
    return Row(
        name=f"{criterion} @{sampler}",
        criterion=criterion,
        tables=("samplers",),
        sampler=sampler,
        models=("resnet18",),
        data=("pneumonia", "mednist"),
    )


def _summed(aggregate: Aggregate) -> Row:
    return Row(
        name=f"{OF_LOSS} {aggregate}",
        criterion=OF_LOSS,
        tables=("aggregations",),
        aggregate=aggregate,
        models=("resnet18",),
        data=("pneumonia", "mednist"),
    )


FEW_GROUPS: Final = ("resnet18", "vgg11_bn", "convnext_atto")
LEAVING_OUT: Final = 3e12  # multiply-accumulates: about a minute of one core
ROWS: Final[tuple[Row, ...]] = (
    _row("taylor"),
    Row(name=OF_LOSS, criterion=OF_LOSS, tables=("criteria", "samplers", "aggregations")),
    _row("random"),
    _row("magnitude"),
    _row("activation"),
    Row(name="lrp", criterion="lrp", tables=("criteria", "samplers")),
    _row("ig"),
    _row("taylor:explained=margin"),
    _row("ig:explained=loss"),
    _row("ig:groups=single,steps=2", models=FEW_GROUPS),
    _row("lrp:explained=evidence"),
    _row("lrp:rule=gamma"),
    _row("lrp:rule=zplus"),
    _row("lrp:rule=epsilon_plus"),
    _row("lrp:rule=low_middle_high"),
    _row("lrp:attention=attnlrp", models=("deit_tiny",)),
    _row("backtrace"),
    _row("backtrace:mode=contrast"),
    _row("shapley:players=4,samples=2"),
    _row("xpruner"),
    _row("sensitivity", macs=LEAVING_OUT),
    _sampled(OF_LOSS, "confidence"),
    _sampled(OF_LOSS, "random"),
    _sampled("lrp", "confidence"),
    _sampled("lrp", "random"),
    _summed("signed"),
    _summed("positive"),
    _summed("squared"),
)
NAMES: Final[Mapping[str, Row]] = {row.name: row for row in ROWS}
PEERS: Final[Mapping[str, str]] = {
    "torch-pruning magnitude": "magnitude",
    "torch-pruning taylor": "taylor",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Scores, from how many images, and the CPU seconds they took after images were chosen."""

    scores: Scores
    images: int
    seconds: float


class Scorer:
    """Scores one trained network by any row; images are chosen once per sampler."""

    def __init__(self, trained: Trained, gated: GatedModel) -> None:
        """Begin without any choice."""
        self.trained = trained
        self.gated = gated
        self._choices: dict[Sampler, SampleChoice] = {}

    def choice(self, sampler: Sampler) -> SampleChoice:
        """Return the training images that a sampler chooses."""
        if sampler not in self._choices:
            self._choices[sampler] = sample(
                self.trained.dense,
                self.trained.train,
                sampler=sampler,
                per_class=PER_CLASS,
                classes=self.trained.classes,
                seed=self.trained.case.seed,
            )
        return self._choices[sampler]

    def images(self, sampler: Sampler, per_class: int) -> tuple[Tensor, Tensor]:
        """Return the first ``per_class`` chosen images of each class, with their labels."""
        chosen = [i for found in self.choice(sampler).per_class.values() for i in found[:per_class]]
        train = self.trained.train
        ((images, labels),) = batches(train, train.how, batch_size=len(chosen), indices=chosen)
        return images, labels

    def per_class(self, row: Row) -> int:
        """Return how many images of each class a row looks at; 0 where it costs too much."""
        if row.macs is None:
            return PER_CLASS
        each = self.gated.total * self.gated.analysis.count_macs() * len(self.trained.classes)
        return min(PER_CLASS, int(row.macs / each))

    def score(self, row: Row) -> Scored:
        """Score all units by a row."""
        images, labels = self.images(row.sampler, self.per_class(row))
        parts = zip(
            torch.split(images, SCORING_BATCH), torch.split(labels, SCORING_BATCH), strict=True
        )
        started = time.process_time()
        scores = attribute(
            self.trained.dense,
            list(parts),
            criterion=row.criterion,
            classes=self.trained.classes,
            aggregate=row.aggregate,
            seed=self.trained.case.seed,
            sampler=row.sampler,
        )
        seconds = time.process_time() - started
        looks = not isinstance(find_criterion(row.criterion), ModelCriterion)
        return Scored(scores=scores, images=len(images) * looks, seconds=seconds)

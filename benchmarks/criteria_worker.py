"""One case from training to the last curve, each row on disk as soon as it is known."""

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

from criteria_cases import Case, Places, trained
from criteria_curves import RANKINGS, Curve, accuracy, check_by_cut, curve, planned
from criteria_rows import NAMES, PEERS, PER_CLASS, Row, Scorer
from criteria_torch_pruning import SCOPES, Peer
from edgeprune.files import write_json
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does.

    Attributes:
        case: the network, data set and seed.
        places: where data and results are.
        rows: names of rows and peers, in their order.
        rates: shares to take away.
        images: for the test, at most.
        deadline: in seconds since 1970; no row is begun after it.
    """

    case: Case
    places: Places
    rows: tuple[str, ...]
    rates: tuple[float, ...]
    images: int
    deadline: float

    @property
    def setting(self) -> dict[str, Any]:
        """What a result depends on beside its name."""
        return {"rates": list(self.rates), "images": self.images, "per_class": PER_CLASS}

    def path(self, row: str) -> Path:
        """Return the file of a row's result."""
        letters = (letter if letter.isalnum() else "-" for letter in row)
        return self.places.of(self.case) / f"{''.join(letters)}.json"

    def known(self, row: str) -> dict[str, Any] | None:
        """Return a row's result if it was measured in the same setting."""
        facts = _read(self.path(row))
        return facts if facts is not None and facts.get("setting") == self.setting else None

    def facts(self) -> dict[str, Any] | None:
        """Return what is known of the trained network."""
        return _read(self.places.of(self.case) / "case.json")

    def missing(self) -> tuple[str, ...]:
        """Name the rows without a result; what failed or was not there is tried again."""
        return tuple(row for row in self.rows if (self.known(row) or {}).get("error", "none yet"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def work(job: Job) -> int:
    """Do what is missing of a job, or where it has no rows train; say how many rows are missing.

    Raises:
        EdgepruneError: a gated network that does not equal its cut.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if (job.rows and not job.missing()) or time.time() > job.deadline:
        return len(job.missing())
    bench = Bench(job)
    for row in job.missing():
        if time.time() > job.deadline:
            break
        bench.run(row)
    return len(job.missing())


class Bench:
    """A trained network, and what measures it."""

    def __init__(self, job: Job) -> None:
        """Train the network or load it, and prove once that gates stand for cuts."""
        self.job = job
        self.trained = trained(job.case, job.places, job.images)
        self.gated = GatedModel(self.trained.dense)
        self.scorer = Scorer(self.trained, self.gated)
        self.note(self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what is known of the network itself."""
        scores = self.scorer.score(NAMES["random"]).scores
        plan = planned(self.trained, scores, "group", 0.5)
        assert plan is not None  # noqa: S101 - half of each group can always go
        return {
            "case": asdict(self.job.case),
            "accuracy": accuracy(self.trained.dense.module, self.trained),
            "chance": self.trained.chance,
            "test_images": len(self.trained.images),
            "pixels": self.trained.images.shape[-1],
            "training_seconds": self.trained.seconds,
            "units": self.gated.total,
            "macs": self.gated.analysis.count_macs(),
            "proof": check_by_cut(self.trained, self.gated, plan),
        }

    def run(self, name: str) -> None:
        """Measure a row and store it; what fails is stored with its reason."""
        facts: dict[str, Any] = {"row": name, "setting": self.job.setting, "error": None}
        try:
            facts |= self.peer(PEERS[name]) if name in PEERS else self.criterion(NAMES[name])
        except Exception as error:  # whatever a criterion raises is a fact about it
            lines = str(error).strip().splitlines()
            facts["error"] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        write_json(self.job.path(name), facts)
        click.echo(f"{self.job.case.name:>26} {name:<32} {_said(facts)}", err=True)

    def criterion(self, row: Row) -> dict[str, Any]:
        """Score by a criterion, and follow the curves of all rankings."""
        if not self.scorer.per_class(row):
            return {"left_out": f"more than {row.macs:.0e} MACs for one image of each class"}
        found = self.scorer.score(row)
        curves = {
            ranking: curve(self.trained, self.gated, found.scores, ranking, self.job.rates)
            for ranking in RANKINGS
        }
        return {
            "seconds": found.seconds,
            "images": found.images,
            "curves": {ranking: c.to_dict() for ranking, c in curves.items()},
        }

    def peer(self, importance: str) -> dict[str, Any]:
        """Prune by Torch-Pruning, globally and locally."""
        scored = self.scorer.images("cluster", PER_CLASS)
        peer = Peer(trained=self.trained, scored=scored, importance=importance)
        found = {scope: peer.curve(scope, self.job.rates) for scope in SCOPES}
        return {
            "seconds": min(seconds for _, seconds in found.values()),
            "images": len(scored[0]) if importance == "taylor" else 0,
            "curves": {scope: c.to_dict() for scope, (c, _) in found.items()},
        }

    def note(self, facts: Mapping[str, Any]) -> None:
        """Store what is known of the case."""
        write_json(self.job.places.of(self.job.case) / "case.json", facts)


def _said(facts: Mapping[str, Any]) -> str:
    """Return a result in a few words."""
    if facts["error"] or "curves" not in facts:
        return str(facts["error"] or facts["left_out"])
    areas = (f"{key} {Curve.from_dict(c).area:.3f}" for key, c in facts["curves"].items())
    return f"{', '.join(areas)}; {facts['seconds']:.1f} s"

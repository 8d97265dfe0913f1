"""``score``: how much each unit of a trained model carries, as a table, a page, and stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeprune.attribution.scores import LayerScore, Scores
from edgeprune.attribution.storage import save_scores
from edgeprune.errors import UsageError
from edgeprune.files import replacing, replacing_folder, write_text
from edgeprune.pipeline.checks import check_place, looks_at_images
from edgeprune.pipeline.opening import Opened, open_subject
from edgeprune.pipeline.score_table import write_table
from edgeprune.pipeline.scoring import Scoring, score_units
from edgeprune.pipeline.storage import told_as_one_line
from edgeprune.pipeline.unit_settings import Format, ScoreSettings
from edgeprune.progress import Reporter, Silent
from edgeprune.report.scores import score_page

TABLES: Final[Mapping[str, Format]] = {".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreResults:
    """Scores, and where they are.

    Attributes:
        model: what was scored.
        scores: one number per unit.
        files: what was written.
    """

    model: str
    scores: Scores
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a summary as JSON values."""
        return {
            "model": self.model,
            "criterion": self.scores.criterion,
            "aggregate": self.scores.aggregate,
            "sampler": self.scores.sampler,
            "samples": len(self.scores.samples),
            "classes": list(self.scores.classes),
            "units": sum(layer.size for layer in self.scores.layers),
            "groups": [_summary(self.scores, layer) for layer in self.scores.layers],
            "files": [path.as_posix() for path in self.files],
        }


def score_model(
    settings: ScoreSettings, out: Path, *, reporter: Reporter | None = None
) -> ScoreResults:
    """Score the units of a trained model.

    ``out`` is a new folder, which gets the table, ``scores.html`` and the scores
    as they are stored (``scores.safetensors``, ``scores.json``); or a file that
    ends with .parquet or .csv, which gets the table alone.

    Raises:
        EdgepruneError: the model, the images or the criterion cannot be used;
            nothing is written then.
    """
    reporter = reporter or Silent()
    table = TABLES.get(out.suffix.lower())
    _check_out(out, table)
    looks = looks_at_images(settings.criterion)
    opened = open_subject(
        settings.subject,
        reporter,
        per_class=settings.per_class if looks else 1,
        needs_images=looks,
    )
    how = Scoring(
        criterion=settings.criterion,
        sampler=settings.sampler,
        per_class=settings.per_class,
        aggregate=settings.aggregate,
        batch_size=settings.batch_size,
        seed=opened.seed,
    )
    reporter.stage(f"Attribute: {how.words}")
    scores = score_units(opened.dense, opened.prepared("train"), opened.data, how, reporter)
    with told_as_one_line(out):
        if table is None:
            files = _write_folder(out, settings, opened, scores)
        else:
            with replacing(out) as temporary:
                write_table(temporary, table, scores)
            files = (out,)
    return ScoreResults(model=opened.name, scores=scores, files=files)


def _check_out(out: Path, table: Format | None) -> None:
    if table is None:
        check_place(out)
    elif out.exists():
        raise UsageError(f"'{out}' exists already: choose another --out, or remove it")


def _write_folder(
    out: Path, settings: ScoreSettings, opened: Opened, scores: Scores
) -> tuple[Path, ...]:
    """Write everything, or nothing."""
    with replacing_folder(out) as folder:
        save_scores(folder, scores)
        for form in settings.formats:
            write_table(folder / f"scores.{form}", form, scores)
        page = score_page(scores, model=opened.name, facts=_facts(settings, opened, scores))
        write_text(folder / "scores.html", page)
        names = sorted(path.name for path in folder.iterdir())
    return tuple(out / name for name in names)


def _facts(settings: ScoreSettings, opened: Opened, scores: Scores) -> list[tuple[str, str]]:
    facts = [("model", opened.name), ("criterion", scores.criterion)]
    if scores.aggregate is not None:
        facts.append(("images are summed", scores.aggregate))
    if scores.samples and opened.data is not None:
        facts += [
            ("images", f"{opened.data.name}, training split"),
            ("chosen by", f"{settings.sampler}, {settings.per_class} of each class"),
            ("classes", ", ".join(opened.data.classes)),
        ]
    return [*facts, ("seed", str(opened.seed))]


def _summary(scores: Scores, layer: LayerScore) -> dict[str, Any]:
    values = scores[layer.group]
    return {
        "name": layer.group,
        "kind": layer.kind,
        "size": layer.size,
        "sum": layer.total,
        "mean": layer.mean,
        "lowest": float(values.min()),
        "highest": float(values.max()),
    }

"""Is it the same model? The cut against the masked model, the artifacts against torch."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents


@dataclass(frozen=True, kw_only=True)
class CutLine:
    """What verifying the cut showed."""

    ok: bool | None
    max_rel: str
    tolerance: str
    samples: str
    changed: str


class KeptLine(NamedTuple):
    """Operators of one kind that stayed at a higher precision, with the reason of the first."""

    number: int
    operator: str
    precision: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ArtifactLine:
    """One artifact and how far it is from torch; an error per batch size."""

    model: str
    format: str
    precision: str
    runtime: str
    files: tuple[tuple[str, str], ...]
    errors: tuple[str, ...]
    tolerance: str
    ok: bool | None
    note: str
    agreement: str
    accuracy: str
    kept: tuple[KeptLine, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """The second section."""

    cut: CutLine
    batches: tuple[str, ...]
    artifacts: tuple[ArtifactLine, ...]
    not_measured: tuple[str, ...]
    notes: tuple[str, ...]


def proofs(documents: Documents) -> Proofs:
    """Collect what was proved about the cut and about each artifact."""
    bundle = documents.bundle
    artifacts = bundle.each("artifacts")
    errors = [dict(_errors(artifact.at("proof"))) for artifact in artifacts]
    batches = sorted({batch for each in errors for batch in each})
    return Proofs(
        cut=_cut(documents),
        batches=tuple(f"{batch:g}" for batch in batches),
        artifacts=tuple(
            _artifact(artifact, tuple(each.get(batch, formats.ABSENT) for batch in batches))
            for artifact, each in zip(artifacts, errors, strict=True)
        ),
        not_measured=bundle.texts("not_measured"),
        notes=bundle.texts("notes"),
    )


def _cut(documents: Documents) -> CutLine:
    cut = documents.results.at("cut")
    proof = documents.bundle.at("cut_proof") or cut
    samples = proof.number("samples")
    tolerance, changed = proof.number("tolerance"), proof.number("changed")
    return CutLine(
        ok=cut.flag("ok"),
        max_rel=formats.power(cut.number("max_rel")),
        tolerance="" if tolerance is None else formats.power(tolerance),
        samples="" if samples is None else formats.count(samples),
        changed="" if changed is None else formats.percent(changed),
    )


def _artifact(artifact: Document, errors: tuple[str, ...]) -> ArtifactLine:
    proof = artifact.at("proof")
    tolerance = proof.number("tolerance")
    accuracy = artifact.at("metrics").number("accuracy")
    if accuracy is None:
        accuracy = proof.number("accuracy", "artifact")
    agreement = proof.number("agreement")
    ran = (proof.text("runtime"), proof.text("runtime_version"), proof.text("precision"))
    return ArtifactLine(
        model=artifact.text("model") or "",
        format=artifact.text("format") or "",
        precision=artifact.text("precision") or "",
        runtime=" ".join(filter(None, ran)),
        files=tuple(_file(file) for file in artifact.each("files")),
        errors=errors,
        tolerance="" if tolerance is None else formats.power(tolerance),
        ok=proof.flag("ok"),
        note=proof.text("note") or "",
        agreement=formats.ABSENT if agreement is None else formats.percent(agreement),
        accuracy=formats.ABSENT if accuracy is None else formats.percent(accuracy),
        kept=tuple(_kept(artifact)),
        notes=artifact.texts("notes"),
    )


def _kept(artifact: Document) -> Iterator[KeptLine]:
    """Yield operators by kind; plenty of equal ones would hide the others."""
    kept = artifact.each("kept")
    counts = Counter((each.text("operator"), each.text("precision")) for each in kept)
    for (operator, precision), count in counts.items():
        reasons = (
            each.text("reason")
            for each in kept
            if (each.text("operator"), each.text("precision")) == (operator, precision)
        )
        yield KeptLine(count, operator or "", precision or "", next(filter(None, reasons), ""))


def _file(file: Document) -> tuple[str, str]:
    away = ", not in the bundle" if file.flag("in_bundle") is False else ""
    return file.text("path") or "", formats.size(file.number("bytes")) + away


def _errors(proof: Document) -> Iterator[tuple[float, str]]:
    """Yield batch sizes with their errors; JSON has no infinity, so a proof writes null."""
    for batch in proof.each("batches"):
        size, error = batch.number("batch"), batch.number("max_rel")
        if size is not None:
            yield size, "not finite" if error is None else formats.power(error)

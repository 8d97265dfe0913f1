"""Is it the same model? The cut against the masked model, the artifacts against torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents

SHOWN: Final = 3  # files of an artifact


@dataclass(frozen=True, kw_only=True)
class CutLine:
    """What verifying the cut showed."""

    ok: bool | None
    max_rel: str
    tolerance: str
    samples: str
    changed: str


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
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """The second section."""

    cut: CutLine
    batches: tuple[str, ...]
    artifacts: tuple[ArtifactLine, ...]
    not_measured: tuple[str, ...]
    estimates: tuple[tuple[str, str], ...]
    estimate_words: str
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
        estimates=tuple(
            (name, formats.milliseconds(each.number("ms")))
            for name, each in bundle.items("estimate")
        ),
        estimate_words=_estimate_words(bundle.at("estimate", "slim")),
        notes=bundle.texts("notes"),
    )


def _estimate_words(estimate: Document) -> str:
    """Say what the estimates are of; nothing is shown without it."""
    parts = (estimate.text("words"), estimate.text("precision"))
    return ", ".join(filter(None, parts))


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
        files=tuple(_files(artifact)),
        errors=errors,
        tolerance="" if tolerance is None else formats.power(tolerance),
        ok=proof.flag("ok"),
        note=proof.text("note") or "",
        agreement=formats.ABSENT if agreement is None else formats.percent(agreement),
        accuracy=formats.ABSENT if accuracy is None else formats.percent(accuracy),
        remarks=(*_kept(artifact), *artifact.texts("notes")),
    )


def _kept(artifact: Document) -> Iterator[str]:
    """Say by kind which operators stayed at a higher precision, with one reason of each."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in artifact.each("kept"):
        key = each.text("operator") or "", each.text("precision") or ""
        groups.setdefault(key, []).append(each.text("reason") or "")
    for (operator, precision), reasons in groups.items():
        reason = next(filter(None, reasons), "")
        more = " (the first of them; the others in proof.json)" if len(reasons) > 1 else ""
        because = f": {reason}{more}" if reason else ""
        yield f"{len(reasons)} {operator} in {precision}{because}"


def _files(artifact: Document) -> Iterator[tuple[str, str]]:
    """Yield the first files; a recipe has more than a table holds."""
    files = artifact.each("files")
    yield from (_file(file) for file in files[:SHOWN])
    if rest := files[SHOWN:]:
        size = sum(file.number("bytes") or 0 for file in rest)
        yield f"and {len(rest)} more", formats.size(size)


def _file(file: Document) -> tuple[str, str]:
    away = ", not in the bundle" if file.flag("in_bundle") is False else ""
    return file.text("path") or "", formats.size(file.number("bytes")) + away


def _errors(proof: Document) -> Iterator[tuple[float, str]]:
    """Yield batch sizes with their errors; JSON has no infinity, so a proof writes null."""
    measure = proof.text("measure") or "max_rel"
    for batch in proof.each("batches"):
        size, error = batch.number("batch"), batch.number(measure)
        if size is not None:
            yield size, "not finite" if error is None else formats.power(error)

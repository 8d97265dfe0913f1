"""Is it the same model? The cut against the masked model, the artifacts against torch."""

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class ArtifactLine:
    """One artifact and how far it is from torch; an error per batch size."""

    model: str
    format: str
    precision: str
    files: tuple[tuple[str, str], ...]
    errors: tuple[str, ...]
    tolerance: str
    ok: bool | None


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
    batches = sorted({batch for each in errors for batch in each}, key=_by_number)
    return Proofs(
        cut=_cut(bundle),
        batches=tuple(batches),
        artifacts=tuple(
            _artifact(artifact, tuple(formats.power(each.get(batch)) for batch in batches))
            for artifact, each in zip(artifacts, errors, strict=True)
        ),
        not_measured=bundle.texts("not_measured"),
        notes=bundle.texts("notes"),
    )


def _cut(bundle: Document) -> CutLine:
    cut = bundle.at("results", "cut")
    proof = bundle.at("cut_proof") or cut
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
    tolerance = artifact.number("proof", "tolerance")
    return ArtifactLine(
        model=artifact.text("model") or "",
        format=artifact.text("format") or "",
        precision=artifact.text("precision") or artifact.text("proof", "precision") or "",
        files=tuple(
            (file.text("path") or "", formats.size(file.number("bytes")))
            for file in artifact.each("files")
        ),
        errors=errors,
        tolerance="" if tolerance is None else formats.power(tolerance),
        ok=artifact.flag("proof", "ok"),
    )


def _errors(proof: Document) -> Iterator[tuple[str, float]]:
    """Yield batch size and largest relative error, from a list or an object of batches."""
    for batch in proof.each("batches"):
        size, error = batch.number("batch"), batch.number("max_rel")
        if size is not None and error is not None:
            yield f"{size:g}", error
    for name, batch in proof.items("batches"):
        error = batch.number("max_rel") if batch.number() is None else batch.number()
        if error is not None:
            yield name, error


def _by_number(batch: str) -> tuple[float, str]:
    return (float(batch), "") if batch.isdigit() else (float("inf"), batch)

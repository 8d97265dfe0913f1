"""``compress``: the whole way, in stages that a later run can take up again."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeprune.bundle import read_manifest
from edgeprune.data import ImageData, PreparedSplit
from edgeprune.errors import UsageError
from edgeprune.pipeline.artifacts import WORDS, export_stage, measured_as, measured_runtime
from edgeprune.pipeline.assembly import Made, assemble_bundle, document
from edgeprune.pipeline.checks import align_note, check_asked, check_place
from edgeprune.pipeline.context import Context
from edgeprune.pipeline.cutting import cut_stage, proof_words, score_stage
from edgeprune.pipeline.estimating import estimate_line
from edgeprune.pipeline.evidence import evidence_stage
from edgeprune.pipeline.inputs import fingerprint, load_images, open_dense, preprocessing_of
from edgeprune.pipeline.measuring import measure_stage
from edgeprune.pipeline.results import CompressResults
from edgeprune.pipeline.settings import CompressSettings, differences
from edgeprune.pipeline.storage import told_as_one_line
from edgeprune.pipeline.training import dense_stage, recover_stage
from edgeprune.pipeline.workspace import Workspace
from edgeprune.progress import Reporter, Silent
from edgeprune.source import BuiltModel
from edgeprune.targets import Target
from edgeprune_benchmarks.record import Record


def compress(
    settings: CompressSettings,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> CompressResults:
    """Score, cut, recover, export, measure and report; write the bundle to ``out``.

    Raises:
        EdgepruneError: whatever of its kinds a stage meets; what is complete
            stays in ``OUT.work`` for ``resume``.
    """
    reporter = reporter or Silent()
    if resume and (out / "bundle.json").exists():
        reporter.say(f"'{out}' is complete already")
        return _stored_results(settings, out)
    check_place(out)
    work = Workspace(out)
    work.check(resume=resume)
    target = check_asked(settings)
    with told_as_one_line(work.folder):
        data = load_images(settings, reporter)
        built = open_dense(settings, data, reporter)
        with work.opened(_identity(settings, target, data, built)):
            how = preprocessing_of(built)
            context = Context(
                settings=settings,
                target=target,
                data=data,
                preprocessing=how,
                train=PreparedSplit(data.train, how),
                val=PreparedSplit(data.val, how),
                work=work,
                reporter=reporter,
            )
            return _run(context, built)


def _identity(
    settings: CompressSettings, target: Target, data: ImageData, built: BuiltModel
) -> Mapping[str, Any]:
    """Return what two runs must share to share their stages."""
    return settings.to_dict() | {
        "target": asdict(target),
        "data_sha256": fingerprint(data),
        "weights_sha256": built.source.sha256,
        "edgeprune": metadata.version("edgeprune"),
    }


def _run(context: Context, built: BuiltModel) -> CompressResults:
    note = align_note(context.settings, context.target)
    notes = (*built.notes, note) if note else built.notes
    if note:
        context.reporter.say(note)
    dense, training = dense_stage(context, built)
    scores = score_stage(context, dense)
    cut = cut_stage(context, dense, scores)
    slim, recovery = recover_stage(context, dense, cut.model, built.trained)
    exported = export_stage(context, dense, slim)
    measured = measure_stage(context, exported, cut)
    made = Made(
        source=built.source.to_dict(),
        dense=dense,
        training=training,
        recovery=recovery,
        slim=slim,
        cut=cut,
        exported=exported,
        measured=measured,
        evidence=evidence_stage(context, dense, slim),
        notes=(*notes, *training.notes, *dense.notes, *cut.plan.notes),
    )
    bundle = assemble_bundle(context, made)
    return CompressResults(
        bundle=bundle,
        title=_title(made.source["name"], context.target.name, context.target.description),
        headline=document(measured.record.results),
        lines=(
            proof_words(cut.proof),
            *_doubts(context, measured.record),
            *_estimated(context, bundle),
            *_places(bundle),
            f"the dense model and intermediate results are in {context.work.folder}; "
            "remove it when done",
        ),
    )


def _title(model: str, target: str, description: str) -> str:
    return f"{model} for {target}: {description}"


def _doubts(context: Context, record: Record) -> Iterator[str]:
    dense, slim = (measured_as(context, name).precision for name in ("dense", "slim"))
    if dense != slim:
        yield f"slim was measured in {slim}, dense in {dense}: the ratio is of cut and precision"
    for reason in record.tainted:
        yield f"tainted measurement: {reason}"
    if context.target.not_measured:
        yield f"not measured: {context.target.not_measured}"
        runtime = WORDS[measured_runtime(context)]
        yield f"latency and memory above are {runtime} on this machine's CPU"


def _estimated(context: Context, bundle: Path) -> Iterator[str]:
    if found := read_manifest(bundle)["estimate"]:
        yield estimate_line(found, context.target.name)


def _places(bundle: Path) -> tuple[str, ...]:
    return (f"bundle: {bundle}   report: {bundle / 'report.html'}",)


def _stored_results(settings: CompressSettings, out: Path) -> CompressResults:
    """Return the results of a bundle that was made with the same settings.

    Raises:
        UsageError: it was made with others.
    """
    manifest = read_manifest(out)
    before = manifest["settings"]
    if settings.align is None:  # the bundle holds what the target made of it
        before = before | {"align": None}
    if changed := differences(settings.to_dict(), before):
        raise UsageError(
            f"'{out}' is complete and was made with other settings: {'; '.join(changed)}. "
            "Choose another --out"
        )
    target = manifest["target"]
    return CompressResults(
        bundle=out,
        title=_title(manifest["source"]["name"], target["name"], target["description"]),
        headline=manifest["results"],
        lines=_places(out),
    )

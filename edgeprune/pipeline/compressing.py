"""``compress``: the whole way, in stages that a later run can take up again."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.record import Record

from edgeprune.bundle import read_manifest
from edgeprune.data import ImageData, PreparedSplit, check_split, load_data, preprocessing_from_timm
from edgeprune.data.preprocessing import Preprocessing
from edgeprune.pipeline.assembly import assemble_bundle, not_measured
from edgeprune.pipeline.context import Context
from edgeprune.pipeline.cutting import cut_stage, proof_words, score_stage
from edgeprune.pipeline.evidence import evidence_stage
from edgeprune.pipeline.measuring import export_stage, measure_stage, measured_runtime
from edgeprune.pipeline.results import CompressResults
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.pipeline.training import dense_stage, recover_stage
from edgeprune.pipeline.workspace import Workspace
from edgeprune.progress import Reporter, Silent
from edgeprune.source import BuiltModel, model_source, open_model
from edgeprune.targets import load_target

LEAST_EDGE: Final = 64  # pixels; below it most networks' last feature map is one position
STRIDE: Final = 32  # what the usual network divides the input's edge by


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
        reporter.say(f"'{out}' is already complete")
        return _stored_results(out)
    work = Workspace(out)
    work.check(resume=resume)
    target = load_target(settings.target)
    reporter.stage(f"Read {settings.data}")
    data = _load(settings, reporter)
    work.open(settings.to_dict() | {"data_sha256": _fingerprint(data)})
    built = _open(settings, data, reporter)
    how = _preprocessing(built)
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


def _run(context: Context, built: BuiltModel) -> CompressResults:
    dense, training = dense_stage(context, built)
    scores = score_stage(context, dense)
    cut = cut_stage(context, dense, scores)
    slim, recovery = recover_stage(context, dense, cut.model)
    exported = export_stage(context, dense, slim)
    record = measure_stage(context, exported, cut)
    evidence = evidence_stage(context, dense, slim)
    context.reporter.stage("Write the bundle")
    notes = (*built.notes, *training.notes, *dense.notes, *cut.plan.notes)
    bundle = assemble_bundle(
        context,
        source=built.source.to_dict(),
        training=training,
        recovery=recovery,
        slim=slim,
        cut=cut,
        exported=exported,
        record=record,
        evidence=evidence,
        notes=notes,
    )
    lines = (proof_words(cut.proof), *_lines(context, record), *_places(bundle, context.work))
    return CompressResults(
        bundle=bundle,
        title=f"{built.source.to_dict()['name']} for {context.target.name}: {context.target.description}",
        headline=encode(record.results),
        lines=lines,
    )


def _lines(context: Context, record: Record) -> list[str]:
    lines = [f"tainted measurement: {reason}" for reason in record.tainted]
    lines += [f"not measured: {reason}" for reason in not_measured(context)]
    if context.target.runtime != measured_runtime(context):
        lines.append("latency and memory above are ONNX Runtime on this machine's CPU")
    return lines


def _places(bundle: Path, work: Workspace) -> list[str]:
    return [
        f"bundle: {bundle}   report: {bundle / 'report.html'}",
        f"the dense model and intermediate results are in {work.folder}; remove it when done",
    ]


def _stored_results(out: Path) -> CompressResults:
    manifest = read_manifest(out)
    return CompressResults(
        bundle=out,
        title=f"{manifest['source']['name']} for {manifest['target']['name']}",
        headline=manifest["results"],
        lines=(f"bundle: {out}   report: {out / 'report.html'}",),
    )


def _load(settings: CompressSettings, reporter: Reporter) -> ImageData:
    with reporter.track("decoding images", 1) as advance:
        data = load_data(
            settings.data,
            seed=settings.seed,
            skip_corrupt=settings.skip_corrupt,
            progress=lambda done, total: advance(done, f"of {total}"),
        )
    check_split(data, settings.per_class)
    sizes = ", ".join(f"{len(split)} {split.name}" for split in data.splits)
    kind = "findings, several per image" if data.multi_label else "classes"
    reporter.say(f"{data.name}: {sizes}; {len(data.classes)} {kind}")
    for note in data.notes:
        reporter.say(note)
    return data


def _fingerprint(data: ImageData) -> str:
    """Hash which images there are and how they are labelled."""
    digest = hashlib.sha256(json.dumps([data.classes, data.multi_label]).encode())
    for split in data.splits:
        digest.update(json.dumps(split.ids).encode())
        digest.update(split.labels.tobytes())
    return digest.hexdigest()


def _open(settings: CompressSettings, data: ImageData, reporter: Reporter) -> BuiltModel:
    reporter.stage(f"Build {settings.model}")
    source = model_source(
        settings.model,
        num_classes=len(data.classes),
        image_size=settings.image_size,
        pretrained=settings.pretrained,
    )
    built = open_model(source, weights=settings.weights, seed=settings.seed)
    edge = _own_edge(settings, built, data)
    if edge is not None:
        smaller = open_model(replace(source, image_size=edge), seed=settings.seed)
        note = (
            f"trained from scratch on images of at most {_largest(data)} pixels, so the input is "
            f"{edge} × {edge} instead of the model's {built.config['input_size'][-1]}; "
            "choose another with --image-size"
        )
        built = replace(smaller, notes=(*smaller.notes, note))
    for note in built.notes:
        reporter.say(note)
    return built


def _own_edge(settings: CompressSettings, built: BuiltModel, data: ImageData) -> int | None:
    """Return a smaller input for a model that nothing ties to its own, or None.

    Small images enlarged to the size that ImageNet networks are used at cost
    ten times the training and show nothing more.
    """
    if settings.image_size or built.trained != "nothing" or _fixed(built):
        return None
    edge = max(LEAST_EDGE, -(-_largest(data) // STRIDE) * STRIDE)
    return edge if edge < built.config["input_size"][-1] else None


def _fixed(built: BuiltModel) -> bool:
    config: Any = getattr(built.model, "pretrained_cfg", None) or {}
    return built.source.kind != "timm" or bool(config.get("fixed_input_size"))


def _largest(data: ImageData) -> int:
    probe = range(min(len(data.train), 64))
    return max(max(data.train.images[index].shape[:2]) for index in probe)


def _preprocessing(built: BuiltModel) -> Preprocessing:
    """Return the preprocessing of a model: its own, or whole images if nothing ties it."""
    how = preprocessing_from_timm(built.config)
    # A fresh model has no habit of central crops, and findings lie at borders too.
    return replace(how, crop_pct=1.0) if built.trained == "nothing" else how


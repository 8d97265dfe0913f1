"""The bundle: everything a run made, in one folder that appears when it is whole."""

import shutil
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final

import edgeprune_benchmarks
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.record import Record, write_record

from edgeprune.bundle import change_record, write_golden, write_manifest
from edgeprune.capture import Captured
from edgeprune.files import replacing_folder, sha256, write_json
from edgeprune.pipeline.context import Context
from edgeprune.pipeline.cutting import CutModel
from edgeprune.pipeline.measuring import Exported, measured_runtime
from edgeprune.pipeline.training import Training
from edgeprune.report import build_report

GOLDEN_IMAGES: Final = 4


def assemble_bundle(  # noqa: PLR0913 - everything a run made
    context: Context,
    *,
    source: dict[str, Any],
    training: Training,
    recovery: Training,
    slim: Captured,
    cut: CutModel,
    exported: Exported,
    record: Record,
    evidence: Path,
    notes: tuple[str, ...],
) -> Path:
    """Write the bundle beside its place and move it there when it is complete."""
    with replacing_folder(context.work.out) as folder:
        write_json(folder / "plan.json", cut.plan.to_dict())
        slim.save(folder / "model")
        (folder / "model" / "plan.json").unlink()
        for artifact in exported.artifacts:
            if artifact["model"] == "slim":
                _copy_artifact(exported, artifact, folder / "artifacts")
        images = context.spread(context.data.test, GOLDEN_IMAGES)
        ids = tuple(context.data.test.ids[index] for index in images)
        golden = context.images(context.data.test, images)
        write_golden(folder / "golden", slim, golden, ids)
        write_record(record, folder / "record.json")
        shutil.copytree(evidence, folder / "evidence")
        runner = resources.files(edgeprune_benchmarks) / "device_runner.py"
        (folder / "run.py").write_text(runner.read_text(encoding="utf-8"), encoding="utf-8")
        manifest = _manifest(context, source, training, recovery, exported, record, notes)
        write_json(
            folder / "change_record.json",
            change_record(
                manifest=manifest,
                record=encode(record),
                plan=cut.plan,
                plan_sha256=sha256(folder / "plan.json"),
                weights_sha256=sha256(folder / "model" / "weights.safetensors"),
            ),
        )
        write_manifest(folder, manifest)
        build_report(folder)
        write_manifest(folder, manifest)
    return context.work.out


def _copy_artifact(exported: Exported, artifact: Any, place: Path) -> None:  # noqa: ANN401
    for name in artifact["files"]:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(exported.folder / artifact["model"] / name, target)


def _manifest(  # noqa: PLR0913, PLR0917
    context: Context,
    source: dict[str, Any],
    training: Training,
    recovery: Training,
    exported: Exported,
    record: Record,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    data, target = context.data, context.target
    return {
        "created": record.created,
        "edgeprune": metadata.version("edgeprune"),
        "source": source,
        "target": {
            "name": target.name,
            "description": target.description,
            "runtime": target.runtime,
            "precision": target.precision,
            "align": target.align,
            "opset": target.opset,
            "threads": context.threads,
            "measured_in": measured_runtime(context),
        },
        "data": {
            "name": data.name,
            "classes": list(data.classes),
            "multi_label": data.multi_label,
            "splits": {split.name: len(split) for split in data.splits},
            "notes": list(data.notes),
        },
        "preprocessing": context.preprocessing.to_dict(),
        "settings": context.settings.to_dict() | {"align": context.align},
        "results": encode(record.results),
        "training": training.to_dict(),
        "recovery": recovery.to_dict(),
        "artifacts": [_listed(exported, artifact) for artifact in exported.artifacts],
        "not_measured": not_measured(context),
        "notes": list(notes),
    }


def _listed(exported: Exported, artifact: Any) -> dict[str, Any]:  # noqa: ANN401
    folder = exported.folder / artifact["model"]
    inside = artifact["model"] == "slim"
    files = [
        {
            "path": f"artifacts/{name}" if inside else name,
            "bytes": (folder / name).stat().st_size,
            "in_bundle": inside,
        }
        for name in artifact["files"]
    ]
    return dict(artifact) | {"files": files}


def not_measured(context: Context) -> list[str]:
    """Say what this run could not measure, and what to do about it."""
    reason = context.target.not_measured
    return [reason] if reason else []

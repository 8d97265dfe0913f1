"""The bundle: everything a run made, in one folder that appears when it is whole."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final, cast

import edgeprune_benchmarks
from edgeprune.bundle import Golden, GoldenLimit, change_record, write_golden, write_manifest
from edgeprune.capture import Captured
from edgeprune.data.preprocessing import fit
from edgeprune.files import sha256, write_json
from edgeprune.pipeline.artifacts import Exported, key_of, measured_runtime
from edgeprune.pipeline.context import Context, logits_of
from edgeprune.pipeline.cutting import CutModel
from edgeprune.pipeline.estimating import latency_estimate
from edgeprune.pipeline.export_images import PARITY_IMAGES
from edgeprune.pipeline.measuring import Measured
from edgeprune.pipeline.training import Training
from edgeprune.report import build_report
from edgeprune.targets import Target
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.record import write_record

RECIPE: Final = "recipe.json"  # of a TensorRT engine, with limits of its own


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """Everything a run made before its bundle.

    Attributes:
        source: where the dense model came from, as JSON values.
        dense: the dense model.
        training, recovery: what the two trainings did.
        slim: the recovered model.
        cut: the plan and its proof, with the model as it was before recovery.
        exported: the artifacts.
        measured: accuracy, and dense against slim.
        evidence: folder of examples with heat maps.
        notes: what a user should know, one sentence each.
    """

    source: Mapping[str, Any]
    dense: Captured
    training: Training
    recovery: Training
    slim: Captured
    cut: CutModel
    exported: Exported
    measured: Measured
    evidence: Path
    notes: tuple[str, ...]


def assemble_bundle(context: Context, made: Made) -> Path:
    """Put the bundle together among the stages, and move it to its place when it is whole."""

    def make(folder: Path) -> None:
        _write_models(context, made, folder)
        write_record(made.measured.record, folder / "record.json")
        shutil.copytree(made.evidence, folder / "evidence")
        runner = resources.files(edgeprune_benchmarks) / "device_runner.py"
        (folder / "run.py").write_bytes(runner.read_bytes())
        manifest = _manifest(context, made)
        write_json(
            folder / "change_record.json",
            change_record(
                manifest=manifest,
                record=document(made.measured.record),
                plan=made.cut.plan,
                plan_sha256=sha256(folder / "plan.json"),
                weights_sha256=sha256(folder / "model" / "weights.safetensors"),
            ),
        )
        write_manifest(folder, manifest)
        build_report(folder)
        write_manifest(folder, manifest)  # again, now that the report can be listed

    context.stage("bundle", "Write the bundle", make, lambda folder: folder)
    context.work.publish("bundle")
    return context.work.out


def document(value: object) -> dict[str, Any]:
    """Return a dataclass as JSON values."""
    return cast(dict[str, Any], encode(value))


def _write_models(context: Context, made: Made, folder: Path) -> None:
    write_json(folder / "plan.json", made.cut.plan.to_dict())
    made.slim.save(folder / "model")
    (folder / "model" / "plan.json").unlink()  # the one above is found from there
    for artifact in made.exported.artifacts:
        if artifact["model"] == "slim":
            _copy_artifact(made.exported, artifact, folder / "artifacts")
    write_golden(folder / "golden", _golden(context, made))


def _golden(context: Context, made: Made) -> Golden:
    """Choose the images that the artifacts were proven with, and the smallest as the picture."""
    test = context.data.test
    chosen = context.spread(test, PARITY_IMAGES)
    inputs = context.images(test, chosen)
    picture = min(range(len(chosen)), key=lambda place: test.images[chosen[place]].size)
    raw = test.images[chosen[picture]]
    return Golden(
        ids=tuple(test.ids[index] for index in chosen),
        inputs=inputs,
        outputs=logits_of(made.slim, inputs),
        limits={
            f"artifacts/{each['files'][0]}": _limit(made.exported, each)
            for each in made.exported.artifacts
            if each["model"] == "slim"
        },
        picture=picture,
        raw=raw,
        pixels=fit(raw, context.preprocessing),
    )


def _limit(exported: Exported, artifact: Mapping[str, Any]) -> GoldenLimit:
    """Return the limit that an artifact's proof was held to, or that its engine will be."""
    proof = artifact["proof"]
    measure, tolerance = proof["measure"], proof["tolerance"]
    recipe = exported.file(artifact).with_name(RECIPE)
    if recipe.is_file():
        golden = json.loads(recipe.read_text(encoding="utf-8"))["golden"]
        measure, tolerance = "max_rel", golden["tolerance"]
    return GoldenLimit(precision=artifact["precision"], measure=measure, tolerance=tolerance)


def _copy_artifact(exported: Exported, artifact: Mapping[str, Any], place: Path) -> None:
    for name in artifact["files"]:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(exported.folder / artifact["model"] / name, target)


def _manifest(context: Context, made: Made) -> dict[str, Any]:
    data, target = context.data, context.target
    return {
        "created": made.measured.record.created,
        "edgeprune": metadata.version("edgeprune"),
        "source": dict(made.source),
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
            "bits": data.bits,
            "splits": {split.name: len(split) for split in data.splits},
            "notes": list(data.notes),
        },
        "preprocessing": context.preprocessing.to_dict(),
        "settings": context.settings.to_dict() | {"align": context.align},
        "results": document(made.measured.record.results),
        "cut_proof": asdict(made.cut.proof),
        "training": made.training.to_dict(),
        "recovery": made.recovery.to_dict(),
        "artifacts": [_listed(made, each) for each in made.exported.artifacts],
        "estimate": _estimates(made, target),
        "not_measured": [reason] if (reason := target.not_measured) else [],
        "notes": list(made.notes),
    }


def _estimates(made: Made, target: Target) -> dict[str, Any] | None:
    """Return estimates of both models for a device that is not here, or None."""
    models = {"dense": made.dense, "slim": made.slim}
    found = {name: latency_estimate(model, target) for name, model in models.items()}
    return found if target.not_measured and all(found.values()) else None


def _listed(made: Made, artifact: Mapping[str, Any]) -> dict[str, Any]:
    folder = made.exported.folder / artifact["model"]
    inside = artifact["model"] == "slim"
    files = [
        {
            "path": f"artifacts/{name}" if inside else name,
            "bytes": (folder / name).stat().st_size,
            "sha256": sha256(folder / name),
            "in_bundle": inside,
        }
        for name in artifact["files"]
    ]
    metrics = made.measured.metrics.get(key_of(artifact))
    return {**artifact, "files": files, "metrics": metrics}

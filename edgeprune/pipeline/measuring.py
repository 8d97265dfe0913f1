"""The last stages: artifacts, what they do on the test split, and how fast."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune.files import write_json
from edgeprune.pipeline.context import EVALUATION_BATCH, Context, batch_of
from edgeprune.pipeline.cutting import CutModel
from edgeprune.pipeline.timestamps import now
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare, predict
from edgeprune_benchmarks.metrics import Metrics, classification_metrics, paired_difference
from edgeprune_benchmarks.record import (
    Counts,
    CutResult,
    Evidence,
    Record,
    make_record,
    read_record,
    write_record,
)
from edgeprune_exporters import TorchModel, exporters, read_formats
from edgeprune_exporters import export as export_artifacts

PARITY_IMAGES: Final = 4
TIMED_IMAGES: Final = 8
BACKENDS: Final = {"openvino": "openvino", "onnxruntime": "onnx"}  # runtime → format it loads
WORDS: Final = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The artifacts of both models, and where they lie.

    Attributes:
        folder: holds ``dense`` and ``slim``, each with a folder per format.
        artifacts: one entry per artifact, as the bundle lists them.
    """

    folder: Path
    artifacts: tuple[Mapping[str, Any], ...]

    def file(self, model: str, form: str) -> Path:
        """Return the file that a runtime is pointed at."""
        found = next(a for a in self.artifacts if a["model"] == model and a["format"] == form)
        return self.folder / model / str(found["files"][0])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        record: dense against slim in the target's runtime.
        metrics: what each artifact gets right on the test split, each in its
            own runtime, as JSON values by ``MODEL/FORMAT``.
    """

    record: Record
    metrics: Mapping[str, Any]


def refuse_formats(context: Context, model: Captured) -> None:
    """Say before any training that a format cannot be written for this model.

    Raises:
        ExportError: an exporter refuses it.
    """
    known = exporters()
    for wanted in read_formats(_formats(context), context.target):
        name, exporter = wanted.format, known[wanted.format]
        if reason := exporter.refusal(TorchModel(model), context.target, wanted.precision):
            raise ExportError(f"no {name} for target '{context.target.name}': {reason}")


def export_stage(context: Context, dense: Captured, slim: Captured) -> Exported:
    """Export both models; a dense one only in the format that is measured."""

    def make(folder: Path) -> None:
        images = context.images(context.data.test, context.spread(context.data.test, PARITY_IMAGES))
        measured = measured_format(context)
        listed = []
        for name, model, formats in (
            ("slim", slim, _formats(context)),
            ("dense", dense, (measured,)),
        ):
            artifacts = export_artifacts(
                model,
                context.target,
                folder / name,
                images,
                formats=formats,
                metadata=_metadata(context),
            )
            listed += [{"model": name} | artifact.to_dict() for artifact in artifacts]
        write_json(folder / "artifacts.json", listed)

    def read(folder: Path) -> Exported:
        listed = json.loads((folder / "artifacts.json").read_text(encoding="utf-8"))
        return Exported(folder=folder, artifacts=tuple(listed))

    exported = context.stage("artifacts", "Export", make, read)
    for artifact in exported.artifacts:
        context.reporter.say(f"{artifact['model']} {artifact['format']}: {_proof_words(artifact)}")
    return exported


def _formats(context: Context) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*context.formats, measured_format(context))))


def measured_format(context: Context) -> str:
    """Return the format that is measured here: the target's own, else ONNX on this CPU."""
    return BACKENDS.get(context.target.runtime, "onnx")


def measured_runtime(context: Context) -> str:
    """Return the runtime that is measured here."""
    return context.target.runtime if context.target.runtime in BACKENDS else "onnxruntime"


def measure_stage(context: Context, exported: Exported, cut: CutModel) -> Measured:
    """Predict the test split with every artifact, then time dense and slim in turns."""
    runtime = measured_runtime(context)
    batch = batch_of(cut.model, 1)

    def make(folder: Path) -> None:
        whole = batch_of(cut.model, EVALUATION_BATCH)
        subjects = _subjects(exported)
        logits = {key: _predict(context, each, whole) for key, each in subjects.items()}
        metrics = {
            key: classification_metrics(values, context.data.test.labels, context.data.classes)
            for key, values in logits.items()
        }
        write_json(folder / "metrics.json", {key: encode(each) for key, each in metrics.items()})
        form = measured_format(context)
        pair = {
            name: Side(
                subject=subjects[f"{name}/{form}"],
                logits=logits[f"{name}/{form}"],
                metrics=metrics[f"{name}/{form}"],
            )
            for name in ("dense", "slim")
        }
        settings = MeasureSettings(
            threads=context.threads, rounds=context.settings.rounds, batch=batch
        )
        write_record(_record(context, pair, cut, settings), folder / "record.json")

    def read(folder: Path) -> Measured:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return Measured(record=read_record(folder / "record.json"), metrics=metrics)

    threads = f"{context.threads} thread{'s' * (context.threads > 1)}"
    title = f"Measure in {WORDS[runtime]}, {threads}, batch {batch}"
    measured = context.stage("measurement", title, make, read)
    for key, metrics in measured.metrics.items():
        context.reporter.say(f"{key}: {100 * metrics['accuracy']:.2f} % of the test calls right")
    return measured


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two models that are compared."""

    subject: Subject
    logits: NDArray[np.float32]
    metrics: Metrics


def _subjects(exported: Exported) -> dict[str, Subject]:
    """Return every artifact that a runtime here can load, by model and format."""
    runtimes = {form: runtime for runtime, form in BACKENDS.items()}
    return {
        f"{each['model']}/{each['format']}": Subject(
            name=each["model"],
            artifact=exported.file(each["model"], each["format"]),
            backend=runtimes[each["format"]],
        )
        for each in exported.artifacts
        if each["format"] in runtimes
    }


def _predict(context: Context, subject: Subject, batch: int) -> NDArray[np.float32]:
    settings = MeasureSettings(threads=_cores(), batch=batch)
    count = -(-len(context.data.test) // EVALUATION_BATCH)
    with context.reporter.track(f"{subject.name}: test images", count) as advance:

        def counted() -> Iterator[NDArray[np.float32]]:
            for number, part in enumerate(context.test_batches(), 1):
                yield part
                advance(number, "batches")

        return predict(subject, counted(), settings)


def _record(
    context: Context,
    pair: Mapping[str, Side],
    cut: CutModel,
    settings: MeasureSettings,
) -> Record:
    seed = context.settings.seed
    inputs = next(context.test_batches())[: max(TIMED_IMAGES, settings.batch)]
    with context.reporter.track("dense and slim in turns", settings.rounds) as advance:
        comparison = compare(
            pair["dense"].subject,
            pair["slim"].subject,
            inputs,
            settings,
            lambda done, total: advance(done, "rounds"),
        )
    evidence = {
        name: Evidence(
            metrics=pair[name].metrics,
            counts=Counts(params=counts["params"], macs=counts["macs"]),
        )
        for name, counts in (("dense", cut.plan.dense), ("slim", cut.plan.predicted))
    }
    return make_record(
        comparison,
        created=now(),
        dense=evidence["dense"],
        slim=evidence["slim"],
        difference=paired_difference(
            pair["dense"].logits, pair["slim"].logits, context.data.test.labels, seed=seed
        ),
        cut=CutResult(
            max_rel=cut.proof.max_rel,
            ok=cut.proof.ok,
            units_removed=cut.plan.units_removed,
            units_total=cut.plan.units_total,
        ),
        seed=seed,
    )


def _proof_words(artifact: Mapping[str, Any]) -> str:
    proof = artifact["proof"]
    parts = [f"{b['max_rel']:.1e} at batch {b['batch']}" for b in proof["batches"]]
    return f"equals torch within {proof['tolerance']:.0e} relative ({', '.join(parts)})"


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _metadata(context: Context) -> dict[str, str]:
    return {
        "edgeprune.classes": json.dumps(list(context.data.classes)),
        "edgeprune.preprocessing": json.dumps(context.preprocessing.to_dict()),
        "edgeprune.multi_label": json.dumps(context.data.multi_label),
    }

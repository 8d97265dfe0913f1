"""What is compared: the artifacts of a case, exported and judged on the test split.

Exports and accuracy are kept in a folder and found again there, because neither
needs a quiet machine and times do. Invariant: what is found again was made by the
same version from the same models with the same settings.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.capture import Captured
from edgeprune.files import write_json
from edgeprune.progress import Reporter
from edgeprune.targets import load_target
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.harness import MeasureSettings, Subject, predict
from edgeprune_benchmarks.metrics import classification_metrics, paired_difference
from edgeprune_exporters import Artifact, export
from edgeprune_exporters.options import ExportOptions
from precision_case import Case

FORMATS: Final[Mapping[str, str]] = {"openvino": "openvino", "onnxruntime": "onnx"}
TARGETS: Final[Mapping[str, str]] = {"openvino": "cpu", "onnxruntime": "cpu-ort"}

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: a model, the precision of its file, and what floats are computed in."""

    model: str
    precision: str
    arithmetic: str = "f32"

    @property
    def name(self) -> str:
        """For the table, as ``slim int8``, or ``slim fp32, asked to run in bf16``."""
        plain = f"{self.model} {self.precision}"
        return plain if self.arithmetic == "f32" else f"{plain}, asked to run in {self.arithmetic}"


@dataclass(frozen=True, kw_only=True)
class Made:
    """An artifact of a case, and how right it is.

    Attributes:
        variant: which one.
        file: what a runtime is pointed at, relative to the case's folder.
        size: of all its files, in bytes.
        accuracy: share of the calls on the test split that are right.
        points: accuracy less that of dense fp32, in points; with its interval over
            images, and the share of calls on which the two differ.
        kept: how many operators stayed at a higher precision, by kind and reason.
        notes: what the export said.
    """

    variant: Variant
    file: str
    size: int
    accuracy: float
    points: float
    low: float
    high: float
    disagreement: float
    kept: Mapping[str, int]
    notes: tuple[str, ...]


VARIANTS: Final[Mapping[str, tuple[Variant, ...]]] = {
    "openvino": (
        Variant(model="dense", precision="fp32"),
        Variant(model="dense", precision="int8"),
        Variant(model="slim", precision="fp32"),
        Variant(model="slim", precision="fp32", arithmetic="bf16"),
        Variant(model="slim", precision="fp16"),
        Variant(model="slim", precision="int8"),
        Variant(model="slim", precision="int8", arithmetic="bf16"),
    ),
    "onnxruntime": (
        Variant(model="dense", precision="fp32"),
        Variant(model="dense", precision="int8"),
        Variant(model="slim", precision="fp32"),
        Variant(model="slim", precision="fp16"),
        Variant(model="slim", precision="int8"),
    ),
}


def prepare(
    case: Case, runtime: str, folder: Path, *, max_drop: float, reporter: Reporter
) -> tuple[Made, ...]:
    """Export every variant and judge it, or find both in the folder; dense fp32 comes first.

    max_drop: points of accuracy on the validation split that int8 may cost each model.

    Raises:
        EdgepruneError: an artifact cannot be written, or does not run.
    """
    marker, identity = folder / "made.json", _identity(case, max_drop)
    if marker.is_file():
        stored = json.loads(marker.read_text(encoding="utf-8"))
        if stored["identity"] == identity:
            reporter.say(f"{case.name}: the artifacts for {runtime} are there already")
            return tuple(decode(Made, each) for each in stored["made"])
    artifacts = _export(case, runtime, folder, max_drop, reporter)
    made = tuple(_judged(case, runtime, folder, artifacts, reporter))
    write_json(marker, {"identity": identity, "made": [encode(each) for each in made]})
    return made


def _identity(case: Case, max_drop: float) -> str:
    """Hash what the artifacts depend on."""
    digest = hashlib.sha256(f"{max_drop} {version('edgeprune')} {case.name}".encode())
    for model in (case.dense, case.slim):
        for name, value in model.module.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _export(
    case: Case, runtime: str, folder: Path, max_drop: float, reporter: Reporter
) -> Mapping[tuple[str, str], Artifact]:
    """Return the artifacts by model and precision; their files are relative to the folder."""
    models: Mapping[str, Captured] = {"dense": case.dense, "slim": case.slim}
    found: dict[tuple[str, str], Artifact] = {}
    for name, model in models.items():
        wanted = {v.precision: v for v in VARIANTS[runtime] if v.model == name}
        reporter.stage(f"{case.name}: export {name} for {runtime}: {', '.join(wanted)}")
        artifacts = export(
            model,
            load_target(TARGETS[runtime]),
            folder / name,
            case.images,
            formats=tuple(f"{FORMATS[runtime]}:{precision}" for precision in wanted),
            options=ExportOptions(max_drop=max_drop),
            reporter=reporter,
        )
        found |= {(name, each.precision): each for each in artifacts}
    return found


def _judged(
    case: Case,
    runtime: str,
    folder: Path,
    artifacts: Mapping[tuple[str, str], Artifact],
    reporter: Reporter,
) -> Iterator[Made]:
    """Run the test split through each artifact as it will be timed, and count what is right."""
    reference: Array | None = None
    for variant in VARIANTS[runtime]:
        artifact = artifacts[variant.model, variant.precision]
        place = folder / variant.model / artifact.files[0]
        subject = Subject(name=variant.name, artifact=place, backend=runtime)
        logits = _predict(case, subject, variant, reporter)
        reference = logits if reference is None else reference
        metrics = classification_metrics(logits, case.test.labels, case.classes)
        difference = paired_difference(reference, logits, case.test.labels)
        reporter.say(f"{variant.name}: {100 * metrics.accuracy:.2f} % of the test calls right")
        yield Made(
            variant=variant,
            file=place.relative_to(folder).as_posix(),
            size=sum(path.stat().st_size for path in subject.files),
            accuracy=metrics.accuracy,
            points=100 * difference.accuracy,
            low=100 * difference.low,
            high=100 * difference.high,
            disagreement=difference.disagreement,
            kept=Counter(f"{each.operator}: {each.reason}" for each in artifact.kept),
            notes=artifact.notes,
        )


def _predict(case: Case, subject: Subject, variant: Variant, reporter: Reporter) -> Array:
    settings = MeasureSettings(precision=variant.arithmetic)
    with reporter.track(f"{subject.name}: test images", len(case.test)) as advance:

        def counted() -> Iterator[Array]:
            done = 0
            for images in case.test.batches(64):
                yield images
                done += len(images)
                advance(done, "images")

        return predict(subject, counted(), settings)

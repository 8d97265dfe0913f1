"""What a candidate is held against, as a file that is committed beside the code.

It holds what can be compared without the artifact it was made from: counts, sizes and
hashes; peak memory with the kind of machine it was seen on; and what was decided
about every image of the test split, so that accuracy is compared image by image.
Nothing in it names a folder, a host, an image or a time. Invariant: the same facts
give the same bytes, and a file is read back equal or refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError, UsageError
from edgeprune.files import sha256, write_json
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.counts import ArtifactCounts, artifact_counts
from edgeprune_benchmarks.measurement import Subject

FORMAT: Final = "edgeprune-baseline"
SCHEMA_VERSION: Final = 1
RECIPE: Final = "recipe.json"
TENSORRT: Final = ("engine.plan", RECIPE)  # either stands for the folder it is in


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One file of the artifact."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Peak memory of a process that ran the artifact, and on what.

    ``machine`` is a fingerprint, ``cpu`` is for messages.
    """

    bytes: int
    machine: str
    cpu: str
    backend: str
    version: str
    device: str
    threads: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What an artifact decided about each image of a test split, in its order.

    ``split`` is the SHA-256 of which images these are and how they are labelled.
    ``calls`` has a word per image: a class number, or 0 and 1 for each finding.
    """

    split: str
    images: int
    classes: tuple[str, ...]
    multi_label: bool
    calls: str

    @classmethod
    def of(
        cls,
        decisions: NDArray[np.integer],
        *,
        split: str,
        classes: Sequence[str],
        multi_label: bool,
    ) -> "Decided":
        """Store decisions: (N, 1) class numbers, or (N, K) of 0 and 1."""
        words = ("".join(map(str, row.tolist())) for row in decisions)
        return cls(
            split=split,
            images=len(decisions),
            classes=tuple(classes),
            multi_label=multi_label,
            calls=" ".join(words),
        )

    def decisions(self) -> NDArray[np.int64]:
        """Return them as they were given.

        Raises ``ValueError`` when they are not one decision per image.
        """
        words = self.calls.split()
        rows = [list(map(int, word)) if self.multi_label else [int(word)] for word in words]
        width = len(self.classes) if self.multi_label else 1
        found = np.array(rows, np.int64).reshape(-1, width)
        most = 2 if self.multi_label else len(self.classes)
        if len(found) != self.images or not ((found >= 0) & (found < most)).all():
            raise ValueError("its calls are not one decision for each image")
        return found


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """By how much a count may grow, as shares."""

    growth: float = 0.01  # of multiply-accumulates, parameters, bytes and operators
    memory: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Everything that is known of an artifact, and how much worse the next may be."""

    format: str = FORMAT
    schema_version: int = SCHEMA_VERSION
    artifact: str
    backend: str
    files: Mapping[str, Listed]  # by name, relative to the artifact's folder
    counts: ArtifactCounts
    peak: Peak | None = None
    decided: Decided | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(each.bytes for each in self.files.values())


def baseline_of(subject: Subject, tolerances: Tolerances | None = None) -> Baseline:
    """Count an artifact. What has to be measured is added by whoever measures it.

    Of a recipe for TensorRT, what it is built from counts: the engine is another on
    every device.

    Raises:
        MeasureError: a file is damaged, or not the one that a recipe lists.
    """
    graph, paths = _shipped(subject)
    files = {
        path.relative_to(subject.folder).as_posix(): Listed(
            bytes=path.stat().st_size, sha256=sha256(path)
        )
        for path in paths
    }
    return Baseline(
        artifact=subject.artifact.name,
        backend=subject.backend or "",
        files=dict(sorted(files.items())),
        counts=artifact_counts(graph),
        tolerances=tolerances or Tolerances(),
    )


def _shipped(subject: Subject) -> tuple[Path, Sequence[Path]]:
    """Return the file whose operators count, and all files that are the same everywhere."""
    recipe = subject.folder / RECIPE
    if subject.artifact.name not in TENSORRT or not recipe.is_file():
        return subject.artifact, subject.files
    try:
        document = json.loads(recipe.read_text(encoding="utf-8"))
        graph, listed = str(document["onnx"]), dict(document["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise MeasureError(f"'{RECIPE}' is no recipe for TensorRT, or a damaged one") from error
    for name, digest in listed.items():
        path = subject.folder / name
        if not path.is_file() or sha256(path) != digest:
            raise MeasureError(f"'{name}' is not the file that the recipe lists")
    return subject.folder / graph, [recipe, *(subject.folder / name for name in listed)]


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write it, whole or not at all."""
    write_json(path, encode(baseline))


def read_baseline(path: Path) -> Baseline:
    """Read it.

    Raises:
        UsageError: there is none, it is damaged, or of another version.
    """
    advice = "write it again with --update"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no baseline '{path}': {advice}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"baseline '{path}' cannot be read ({error}): {advice}") from None
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise UsageError(f"'{path}' is no baseline of edgeprune's gate: {advice}")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise UsageError(
            f"baseline '{path}' has schema version {version}; this edgeprune reads "
            f"{SCHEMA_VERSION}: {'upgrade edgeprune' if newer else advice}"
        )
    try:
        baseline = decode(Baseline, value, at="baseline")
        if baseline.decided is not None:
            baseline.decided.decisions()
    except ValueError as error:
        raise UsageError(f"baseline '{path}' is damaged: {error}; {advice}") from None
    return baseline

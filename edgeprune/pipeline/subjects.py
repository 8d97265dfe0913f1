"""What can be measured by a path: an artifact of a bundle, or a file of its own.

Invariant: a bundle's artifact is opened only if its files are what the bundle lists.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeprune.bundle import read_manifest
from edgeprune.data import Preprocessing
from edgeprune.errors import BundleError, EdgepruneError, ModelError, UsageError
from edgeprune.files import sha256
from edgeprune.pipeline.artifact_metadata import preprocessing_in
from edgeprune.pipeline.subject_files import BACKENDS, LOADS, RECIPE, texts_in
from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.measurement import Subject
from edgeprune_benchmarks.metrics import Metrics
from edgeprune_benchmarks.record import Counts

FORMATS: Final[Mapping[str, str]] = {  # runtime → format of the artifacts it is given
    "openvino": "openvino",
    "onnxruntime": "onnx",
    "tensorrt": "tensorrt",
}
RUNTIMES: Final = tuple(LOADS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """An artifact to measure, and what is known of it.

    Attributes:
        subject: as the harness takes it.
        name: what to call it, without any folder of this machine.
        manifest: of the bundle it belongs to, or None.
        classes: their names; none where they are not known.
        preprocessing: how its images are prepared, where that is known.
        counts: parameters and multiply-accumulates, where a bundle tells.
        metrics: what it got right when the bundle was made, where a bundle tells.
        bundle: the folder of that bundle, or None.
        seed: that the bundle's data were split by, or None.
    """

    subject: Subject
    name: str
    manifest: Mapping[str, Any] | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    counts: Counts | None = None
    metrics: Metrics | None = None
    bundle: Path | None = None
    seed: int | None = None

    @property
    def golden(self) -> Path | None:
        """Prepared images (N, C, H, W) that the bundle holds, or None."""
        path = self.bundle / "golden" / "inputs.npy" if self.bundle else None
        return path if path and path.is_file() else None


def open_subject(
    path: Path, *, runtime: str | None = None, precision: str | None = None, role: str = "slim"
) -> Opened:
    """Open a bundle's artifact, or a file that a runtime loads.

    Args:
        path: the folder of a bundle or of a recipe for TensorRT, or an .onnx, .xml, .pt2
            or .plan file.
        runtime: to run it in; None for what the bundle was measured in, or what the
            file is for.
        precision: which of a bundle's artifacts; None for the target's, and the dense
            model's own.
        role: which of a bundle's models, ``slim`` or ``dense``.

    Raises:
        UsageError: there is no such file, or no such artifact in the bundle.
        BundleError: a bundle that is damaged.
        ModelError: a file that cannot be read.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"no runtime '{runtime}': give one of {', '.join(RUNTIMES)}")
    if is_bundle(path):
        return _of_bundle(path, read_manifest(path), runtime, precision, role)
    if precision is not None:
        raise UsageError(
            f"the precision of '{path}' is its own: --precision chooses among the artifacts of a "
            "bundle"
        )
    return _file(_file_at(path), runtime)


def is_bundle(path: Path) -> bool:
    """Say whether a path is the folder of a bundle."""
    return (path / "bundle.json").is_file()


def _file_at(path: Path) -> Path:
    """Return the file that is meant.

    Raises:
        UsageError: there is none, or none that a runtime loads.
    """
    path = path / RECIPE if (path / RECIPE).is_file() else path
    if path.is_dir():
        found = sorted(
            each.relative_to(path).as_posix()
            for each in path.rglob("*")
            if each.suffix in BACKENDS or each.name == RECIPE
        )
        files = f": give one of its files, as {', '.join(found[:4])}" if found else ""
        raise UsageError(f"'{path}' is no bundle{files or ', and holds no artifact'}")
    if not path.is_file():
        raise UsageError(
            f"there is nothing at '{path}': give the folder of a bundle, or an .onnx, .xml, .pt2 "
            "or .plan file"
        )
    if path.suffix not in BACKENDS and path.name != RECIPE:
        kinds = ", ".join(BACKENDS)
        raise UsageError(f"'{path}' is nothing that a runtime here loads: give one of {kinds}")
    return path


def _file(path: Path, runtime: str | None) -> Opened:
    backend = runtime or BACKENDS.get(path.suffix, "tensorrt")
    _check_loads(path, backend)
    texts = texts_in(path)
    name = texts.get("edgeprune.source", path.name) if path.name == RECIPE else path.name
    return Opened(
        subject=Subject(name=name, artifact=path, backend=backend),
        name=name,
        classes=_classes(texts),
        preprocessing=preprocessing_in(texts),
    )


def _check_loads(path: Path, backend: str) -> None:
    if path.suffix not in LOADS[backend]:
        raise UsageError(
            f"{backend} does not load '{path.name}': it takes {' and '.join(LOADS[backend])}"
        )


def _classes(texts: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(texts.get("edgeprune.classes", "[]"))))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"the file's metadata 'edgeprune.classes' cannot be read: {error}"
        ) from None


def _of_bundle(
    folder: Path,
    manifest: Mapping[str, Any],
    runtime: str | None,
    precision: str | None,
    role: str,
) -> Opened:
    target = manifest.get("target", {})
    backend = runtime or str(target.get("measured_in"))
    entry = _chosen(folder, manifest, backend, role, precision)
    files = _checked_files(folder, manifest, entry)
    artifact = next((f for f in files if f.name == RECIPE), files[0])
    name = f"{manifest.get('source', {}).get('name', 'model')}, {role}"
    seed = manifest.get("settings", {}).get("seed")
    return Opened(
        subject=Subject(name=role, artifact=artifact, backend=backend),
        name=name,
        manifest=manifest,
        classes=tuple(manifest.get("data", {}).get("classes", ())),
        preprocessing=_preprocessing(folder, manifest),
        counts=_counts(manifest, role),
        metrics=_metrics(entry),
        bundle=folder,
        seed=None if seed is None else int(seed),
    )


def _chosen(
    folder: Path, manifest: Mapping[str, Any], backend: str, role: str, precision: str | None
) -> Mapping[str, Any]:
    """Return the entry of the artifact that is meant.

    Raises:
        UsageError: the bundle lists none.
    """
    entries: Sequence[Mapping[str, Any]] = manifest.get("artifacts", ())
    own = [each for each in entries if each.get("model") == role]
    fitting = [each for each in own if each.get("format") == FORMATS.get(backend)]
    target = str(manifest.get("target", {}).get("precision"))
    wanted = precision if role == "slim" else None
    found = [each for each in fitting if each.get("precision") == (wanted or target)]
    if not found and wanted is None:
        found = fitting
    if found:
        return found[0]
    asked = f"{backend}{f' in {wanted}' if wanted else ''}"
    listed = ", ".join(f"{each.get('format')} {each.get('precision')}" for each in own)
    raise UsageError(
        f"bundle '{folder}' holds nothing of its {role} model for {asked}; it lists "
        f"{listed or 'no artifacts'}: choose another --runtime or --precision, or give two files"
    )


def _checked_files(
    folder: Path, manifest: Mapping[str, Any], entry: Mapping[str, Any]
) -> Sequence[Path]:
    """Return an artifact's files, the one that is loaded first.

    Raises:
        UsageError: the dense model's, which lie beside the bundle, are gone.
        BundleError: a file is not what is listed.
    """
    work = Path(f"{folder.resolve()}.work")
    listed = {each["path"]: each for each in manifest.get("files", ())}
    paths = []
    for each in entry["files"]:
        inside = each.get("in_bundle", True)
        path = folder / each["path"] if inside else work / "artifacts" / "dense" / each["path"]
        if not inside and not path.is_file():
            raise UsageError(
                f"the dense model of '{folder}' was in '{work.name}', where '{each['path']}' is "
                "gone: give a second bundle or file to compare with"
            )
        if problem := _changed(path, listed.get(each["path"], each) if inside else each):
            raise BundleError(f"'{path}' is not what bundle '{folder}' lists: {problem}")
        paths.append(path)
    return paths


def _changed(path: Path, listed: Mapping[str, Any]) -> str | None:
    """Say how a file differs from what is listed, or None."""
    if not path.is_file():
        return "it is gone"
    size = path.stat().st_size
    if size != listed["bytes"]:
        return f"it has {size} bytes, not {listed['bytes']}"
    wanted = listed.get("sha256")
    if wanted is not None and (found := sha256(path)) != wanted:
        return f"its SHA-256 is {found}, not {wanted}"
    return None


def _preprocessing(folder: Path, manifest: Mapping[str, Any]) -> Preprocessing | None:
    if "preprocessing" not in manifest:
        return None
    try:
        return Preprocessing.from_dict(manifest["preprocessing"])
    except (EdgepruneError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"'{folder / 'bundle.json'}' is damaged: {error}") from None


def _counts(manifest: Mapping[str, Any], role: str) -> Counts | None:
    side = manifest.get("results", {}).get(role, {})
    params, macs = side.get("params"), side.get("macs")
    return None if params is None or macs is None else Counts(params=params, macs=macs)


def _metrics(entry: Mapping[str, Any]) -> Metrics | None:
    """Return what is listed, where it is in the form of today."""
    try:
        return decode(Metrics, entry.get("metrics"))
    except ValueError:
        return None

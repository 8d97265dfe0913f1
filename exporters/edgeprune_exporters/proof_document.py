"""``proof.json``, beside the files it speaks of: what was compared, with what, and how it came out.

Invariant: equal inputs give equal bytes, and nothing tells when or where it was written.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from edgeprune.files import sha256, write_json
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.job import Job

FILE: Final = "proof.json"
FORMAT: Final = "edgeprune-proof"
ALWAYS: Final = ("edgeprune", "numpy", "onnx", "onnxruntime")
TRANSLATORS: Final = ("torch", "onnxscript", "onnx-ir")  # where the reference is torch
BY_FORMAT: Final[Mapping[str, tuple[str, ...]]] = {"openvino": ("openvino",)}
BY_PRECISION: Final[Mapping[str, tuple[str, ...]]] = {"int8": ("nncf",)}


def write_proof(artifact: Artifact, job: Job, folder: Path) -> str:
    """Write the proof of an artifact into its folder, and return the name of the file.

    Args:
        artifact: with files named relative to ``folder``.
        job: it was made in.
        folder: where the files are.
    """
    write_json(folder / FILE, _document(artifact, job, folder))
    return FILE


def _document(artifact: Artifact, job: Job, folder: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": 1,
        "artifact": {
            **artifact.to_dict(),
            "files": [_file(folder / name, name) for name in artifact.files],
        },
        "target": {"name": job.target.name, "opset": job.target.opset},
        "images": {
            "parity": len(job.images.parity),
            "calibration": _count(job.images.calibration),
            "validation": _count(job.images.validation),
            "test": _count(job.images.test),
        },
        "options": {name: getattr(job.options, name) for name in sorted(job.options.given)},
        "versions": _versions(artifact, job),
    }


def _file(path: Path, name: str) -> dict[str, Any]:
    return {"path": name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _count(images: Any) -> int | None:  # noqa: ANN401 - a tensor, or labelled images
    return None if images is None else len(images)


def _versions(artifact: Artifact, job: Job) -> dict[str, str]:
    names = {
        *ALWAYS,
        *(TRANSLATORS if job.model.reference == "torch" else ()),
        *BY_FORMAT.get(artifact.format, ()),
        *BY_PRECISION.get(artifact.precision, ()),
        *(("onnxsim",) if job.options.simplify else ()),
    }
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # such as a runtime built by hand
        return "unknown"

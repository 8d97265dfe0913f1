"""A bundle whose model is so small that its numbers can be worked out by hand."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle import Golden, GoldenLimit, write_golden, write_manifest
from edgeprune.data.preprocessing import Preprocessing, fit, normalize
from edgeprune_benchmarks.process import RUNNER

from .conftest import SIZE, Tiny

CLASSES = ("normal", "nodule", "effusion", "mass")
HOW = Preprocessing(
    size=(SIZE, SIZE),
    channels=3,
    resize="shortest",
    crop_pct=0.875,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
FILES = {
    "openvino": ("model.xml", "model.bin"),
    "onnxruntime": ("model.onnx",),
    "tensorrt": ("model.onnx", "recipe.json"),
}
FOLDERS = {"openvino": "openvino", "onnxruntime": "onnx", "tensorrt": "tensorrt"}
PATIENCE = 60.0


def pictures(count: int, *, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(SIZE, 50, (count, 2))
    return [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8) // (1 + i)
        for i, (h, w) in enumerate(shapes)
    ]


def prepared(images: Sequence[NDArray[np.uint8]], how: Preprocessing = HOW) -> NDArray[np.float32]:
    return np.concatenate([normalize(fit(image, how)[None], how) for image in images])


def write_bundle(
    folder: Path,
    tiny: Tiny,
    *,
    runtimes: Sequence[str] = ("openvino", "onnxruntime"),
    multi_label: bool = False,
    bits: int = 8,
    measure: str = "max_rel",
    own: str = "",
) -> Path:
    """Write a bundle, for a target with its ``own`` runtime, the first; return its run.py."""
    for runtime in runtimes:
        place = folder / "artifacts" / FOLDERS[runtime]
        place.mkdir(parents=True)
        for name in FILES[runtime]:
            shutil.copyfile(tiny.onnx.with_name(name.replace("model", "tiny")), place / name)
    return complete(
        folder,
        [listed(runtime, "fp32") for runtime in runtimes],
        tiny.expected,
        HOW,
        limit=GoldenLimit(precision="fp32", measure=measure, tolerance=1e-4),
        data={"classes": list(CLASSES), "multi_label": multi_label, "bits": bits},
        own=own,
    )


def listed(runtime: str, precision: str) -> dict[str, Any]:
    """Describe an artifact as ``bundle.json`` does."""
    folder = FOLDERS[runtime]
    return {
        "model": "slim",
        "format": folder,
        "runtime": runtime,
        "precision": precision,
        "files": [{"path": f"artifacts/{folder}/{name}"} for name in FILES[runtime]],
    }


def complete(
    folder: Path,
    artifacts: Sequence[Mapping[str, Any]],
    model: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    how: Preprocessing,
    *,
    limit: GoldenLimit,
    data: Mapping[str, Any],
    own: str = "",
) -> Path:
    """Make a bundle of a folder that holds artifacts; return its run.py."""
    raw = pictures(12)
    inputs = prepared(raw, how)
    write_golden(
        folder / "golden",
        Golden(
            ids=tuple(f"test/{number}" for number in range(12)),
            inputs=torch.from_numpy(inputs),
            outputs=torch.from_numpy(model(inputs)),
            limits={each["files"][0]["path"]: limit for each in artifacts},
            picture=2,
            raw=raw[2],
            pixels=fit(raw[2], how),
        ),
    )
    shutil.copyfile(RUNNER, folder / "run.py")
    first = artifacts[0]["runtime"]
    write_manifest(
        folder,
        {
            "created": "2001-01-01T00:00:00+00:00",
            "source": {"name": "tiny"},
            "target": {"name": "cpu", "runtime": own or first, "measured_in": first},
            "data": data,
            "preprocessing": how.to_dict(),
            "artifacts": artifacts,
        },
    )
    return folder / "run.py"


def run(
    script: Path, *words: object, only: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a runner as a program; ``only``: with no packages but those in this folder."""
    command = [sys.executable, *(["-S", "-s"] if only else []), str(script), *map(str, words)]
    environment: Mapping[str, str] = {**os.environ, **({"PYTHONPATH": str(only)} if only else {})}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
        env=environment,
    )


def packages(folder: Path, *names: str) -> Path:
    """Make a folder that holds these installed packages and no others."""
    folder.mkdir()
    for name in names:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin).parent
        for path in (origin, origin.with_name(f"{name}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return folder

"""Put a TensorRT of any version, and a CUDA runtime, where Python and run.py find them.

``install(folder, "10.3.0")`` writes a module ``tensorrt`` and a libcudart into a folder; with
the folder first on PYTHONPATH, ``python run.py build`` works there as on a device. The
module is made by fake_tensorrt_module.py from tensorrt_api.toml, and really computes.
"""

import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
LIBRARY = "nvidia/cuda_runtime/lib/libcudart.so.13"  # the place and name in NVIDIA's own wheels


@cache
def table() -> dict[str, Any]:
    """What the module has, by version."""
    return tomllib.loads((HERE / "tensorrt_api.toml").read_text())


def versions() -> list[str]:
    """The versions that there are facts of."""
    return list(table()["versions"])


def install(
    folder: Path, version: str = "10.3.0", *, faults: Sequence[str] = (), dla_cores: int = 0
) -> Path:
    """Write the module and the CUDA runtime into a folder, and return the folder.

    Args:
        folder: to be the first on sys.path or PYTHONPATH.
        version: one of ``versions()``.
        faults: what goes wrong, as fake_tensorrt_module.py lists.
        dla_cores: how many deep learning accelerators there are.
    """
    library = folder / LIBRARY
    library.parent.mkdir(parents=True, exist_ok=True)
    if not library.exists():
        library.write_bytes(_compiled())
    (folder / "tensorrt.py").write_text(
        f"import sys\n\nsys.path.append({str(HERE)!r})\nfrom fake_tensorrt_module import fill\n\n"
        f"fill(globals(), {version!r}, {list(faults)!r}, {dla_cores}, {str(library)!r})\n"
    )
    return folder


@cache
def _compiled() -> bytes:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a CUDA runtime with")
    with TemporaryDirectory() as folder:
        library = Path(folder) / "libcudart.so"
        source = HERE / "fake_cudart.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
        return library.read_bytes()

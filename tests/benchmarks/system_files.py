"""Recorded /proc and /sys trees under a temporary root."""

import tempfile
from collections.abc import Mapping
from pathlib import Path


def grow(folder: Path, files: Mapping[str, str]) -> str:
    """Write files below a fresh root in the folder, and return that root."""
    root = Path(tempfile.mkdtemp(dir=folder))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def command(path: Path, script: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path

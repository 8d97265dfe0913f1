"""Captured models, each captured once."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from edgeprune.capture import Captured, capture
from edgeprune.cli import main

from .models import SIZE, build, images

CaptureOf = Callable[..., Captured]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def capture_of() -> CaptureOf:
    """Return the captured model of a name; tests must not change it."""

    @cache
    def capture_named(name: str, size: int = SIZE) -> Captured:
        return capture(build(name), images(3, size))

    return capture_named


@pytest.fixture
def edgeprune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return what runs the command line in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeprune", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return command

"""What compress does with a noise floor that was measured before, or cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprune.pipeline.measuring import known_noise
from edgeprune.progress import Advance
from edgeprune_benchmarks.harness import Comparison, Subject
from edgeprune_benchmarks.noise import measure_noise, store_floor

from .conftest import Tiny, images
from .test_measure_bad_input import BRIEF


class Heard:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, title: str) -> None:
        self.lines.append(title)

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def track(self, title: str, total: int | None) -> Iterator[Advance]:
        raise AssertionError(title)
        yield


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRUNE_STATE", str(tmp_path))
    return tmp_path


@pytest.fixture
def comparison(tiny: Tiny, state: Path) -> Comparison:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    floor, found = measure_noise(subject, images(1), BRIEF)
    assert known_noise(found, Heard()) is None  # measured, but not yet stored
    store_floor(floor)
    return found


def test_the_floor_of_this_machine_and_runtime_is_found_again(comparison: Comparison) -> None:
    heard = Heard()
    floor = known_noise(comparison, heard)
    assert floor is not None
    assert floor > 0
    assert heard.lines == []


def test_a_damaged_file_of_floors_is_told_and_costs_nothing_else(
    comparison: Comparison, state: Path
) -> None:
    (state / "noise.json").write_text("{")
    heard = Heard()
    assert known_noise(comparison, heard) is None
    assert "noise.json cannot be read" in heard.lines[0]

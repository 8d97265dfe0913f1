import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.errors import MeasureError, StorageError
from edgeprune_benchmarks.machine import fingerprint
from edgeprune_benchmarks.measurement import MeasureSettings, Subject
from edgeprune_benchmarks.noise import (
    KEPT,
    NoiseFloor,
    default_path,
    measure_noise,
    store_floor,
    stored_floor,
)
from edgeprune_benchmarks.statistics import Ratio

from .conftest import Tiny, images

BRIEF = MeasureSettings(
    rounds=2, blocks=2, block_seconds=0.01, warmup_seconds=0.02, warmup_limit=0.1, timeout=60.0
)


def floor(value: float, *, machine: str = "abc", backend: str = "openvino") -> NoiseFloor:
    return NoiseFloor(
        value=value,
        machine=machine,
        backend=backend,
        device="cpu",
        threads=1,
        batch=1,
        rounds=6,
        ratio=Ratio(value=1.0, low=1 - value, high=1.0, verdict="not distinguishable"),
        tainted=(),
        created="2026-01-01T00:00:00+00:00",
    )


def test_an_artifact_against_itself_gives_the_floor_of_its_kind(tiny: Tiny) -> None:
    found, comparison = measure_noise(Subject(name="tiny", artifact=tiny.onnx), images(1), BRIEF)
    assert found.machine == fingerprint(comparison.machine)
    assert found.key[1:] == ("onnxruntime", "cpu", 1, 1)
    assert comparison.dense.files == comparison.slim.files
    assert found.value == pytest.approx(max(found.ratio.high - 1, 1 - found.ratio.low))


def test_a_floor_is_found_again_for_the_same_kind_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "noise.json"
    assert stored_floor("abc", "openvino", 1, 1, path) is None
    store_floor(floor(0.01), path)
    assert stored_floor("abc", "openvino", 1, 1, path) == floor(0.01)
    assert stored_floor("abd", "openvino", 1, 1, path) is None
    assert stored_floor("abc", "torch", 1, 1, path) is None
    assert stored_floor("abc", "openvino", 2, 1, path) is None
    assert stored_floor("abc", "openvino", 1, 8, path) is None
    assert stored_floor("abc", "openvino", 1, 1, path, device="cuda:0") is None


def test_the_largest_of_the_latest_floors_counts(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    store_floor(floor(0.2, backend="torch"), path)
    for value in (0.09, 0.01, 0.03, 0.02):
        store_floor(floor(value), path)
    found = stored_floor("abc", "openvino", 1, 1, path)
    assert found is not None
    assert found.value == 0.09
    for _ in range(KEPT - 3):
        store_floor(floor(0.01), path)
    found = stored_floor("abc", "openvino", 1, 1, path)
    assert found is not None
    assert found.value == 0.03  # the largest is forgotten, and another kind's is not
    assert stored_floor("abc", "torch", 1, 1, path) == floor(0.2, backend="torch")


def test_equal_floors_are_forgotten_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    for _ in range(2 * KEPT):
        store_floor(floor(0.01), path)
    assert len(json.loads(path.read_text())["floors"]) == KEPT


def test_the_users_folder_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_STATE", str(tmp_path))
    assert default_path() == tmp_path / "noise.json"
    store_floor(floor(0.01))
    assert stored_floor("abc", "openvino", 1, 1) == floor(0.01)
    monkeypatch.delenv("EDGEPRUNE_STATE")
    assert default_path().parent.name in (".edgeprune", "edgeprune")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"format": "edgeprune-noise", "sch', "Unterminated"),
        ("[]", "no file of format edgeprune-noise"),
        ('{"format": "edgeprune-noise", "schema_version": 2, "floors": []}', "version is 2, not 1"),
        ('{"format": "edgeprune-noise", "schema_version": 1}', "lacks floors"),
        ('{"format": "edgeprune-noise", "schema_version": 1, "floors": [{"value": 1}]}', "lacks"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do_and_left_alone(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "noise.json"
    path.write_text(text)
    with pytest.raises(MeasureError, match=f"{why}.*delete the file"):
        stored_floor("abc", "openvino", 1, 1, path)
    with pytest.raises(MeasureError, match=why):
        store_floor(floor(0.01), path)
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="EDGEPRUNE_STATE"):
        store_floor(floor(0.01), tmp_path / "file" / "noise.json")


def test_a_floor_survives_being_read_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    whole = replace(floor(0.01), tainted=("other processes used 30 % of the CPU time",))
    store_floor(whole, path)
    store_floor(floor(0.5, machine="other"), path)
    assert stored_floor("abc", "openvino", 1, 1, path) == whole

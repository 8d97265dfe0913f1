"""The coverage benchmark: what counts as working, and where differences lie."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peers.coverage", reason="benchmarks/peers needs an editable install")

from peers.coverage import _replace
from peers.coverage_differences import causes, explanation, relative_difference
from peers.coverage_journal import Journal, read
from peers.coverage_limits import Limits, Task, run_all
from peers.coverage_results import Result


def ours(changed: dict[str, Any] | None = None) -> Result:
    stages = dict.fromkeys(("capture", "analyse", "cut", "proof", "onnx", "openvino", "train"))
    facts = {
        "family": "f", "tool": "edgeprune", "params": 96, "kept": 32, "predicted": 32, "equal": 32,
        "max_rel": 1e-7, "macs_max_rel": 1e-7, "kinds_max_rel": {"conv": 1e-7}, "changed": 0.5,
        "onnx": {"max_rel": 1e-7}, "openvino": {"max_rel": 1e-7},
        "stages": {name: {"seconds": 1.0, "error": None} for name in stages},
        "dense_shapes": {"a.0.weight": [8, 4], "a.1.weight": [8, 4], "head.weight": [4, 8]},
        "shapes": {"a.0.weight": [4, 2], "a.1.weight": [4, 2], "head.weight": [4, 4]},
        "frozen": {},
    }  # fmt: skip
    return Result(facts=facts | (changed or {}))


def peer(changed: dict[str, Any] | None = None) -> Result:
    stages = {n: {"seconds": 1.0, "error": None} for n in ("analyse", "cut", "forward", "train")}
    shapes = {"a.0.weight": [4, 4], "a.1.weight": [4, 4], "head.weight": [4, 4]}
    facts = {"family": "f", "tool": "torch-pruning", "params": 96, "kept": 48, "stages": stages,
             "shapes": shapes, "onnx": {"max_rel": 1e-7}}  # fmt: skip
    return Result(facts=facts | (changed or {}))


def test_a_family_that_passes_everything_works() -> None:
    assert ours().succeeds
    assert peer().succeeds


@pytest.mark.parametrize(
    "changed",
    [
        {"max_rel": 1e-3},
        {"macs_max_rel": None},
        {"kinds_max_rel": {"conv": 1e-7, "heads": None}},
        {"changed": 1e-6},
        {"kept": 33},
        {"kept": 96, "predicted": 96},
        {"onnx": {"max_rel": None}},
        {"openvino": {"max_rel": 1e-2}},
        {"stages": {"cut": {"seconds": 1.0, "error": None}}},
    ],
)
def test_one_failed_check_is_enough_not_to_work(changed: dict[str, Any]) -> None:
    assert not ours(changed).succeeds


@pytest.mark.parametrize("changed", [{"kept": 96}, {"onnx": {"max_rel": 1e-2}}, {"stages": {}}])
def test_the_peer_must_shrink_run_and_export(changed: dict[str, Any]) -> None:
    assert not peer(changed).succeeds


def test_a_difference_is_traced_to_the_parameters_that_make_it_up() -> None:
    found = causes(ours(), peer())
    assert [(cause.pattern, cause.values) for cause in found] == [("a.*.weight", -16)]
    assert explanation(ours(), peer()) == "100% from `a.*.weight` 8×4 → 4×2 here, 4×4 there"
    assert relative_difference(ours(), peer()) == pytest.approx(32 / 48 - 1)


def test_text_outside_the_marks_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nbefore\n", encoding="utf-8")
    _replace(page, "part", "one")
    page.write_text(page.read_text(encoding="utf-8") + "\nafter\n", encoding="utf-8")
    _replace(page, "part", "two")
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line]
    assert [line for line in lines if not line.startswith("<!--")] == [
        "# Title", "before", "two", "after",
    ]  # fmt: skip


def test_a_journal_names_the_stage_that_failed_and_why(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "f.json", {"family": "f"})
    assert journal.run("good", lambda: 3) == 3
    assert journal.run("bad", [].pop) is None
    facts = read(tmp_path / "f.json")
    assert facts is not None
    assert facts["stages"]["good"]["error"] is None
    assert facts["stages"]["bad"]["error"] == "IndexError: pop from empty list"
    assert not facts["finished"]


def test_a_process_over_its_time_is_ended_and_says_so(tmp_path: Path) -> None:
    task = Task(family="resnet", tool="edgeprune", path=tmp_path / "resnet.json")
    assert list(run_all([task], Limits(seconds=0.2, memory_gib=8), 1)) == [task]
    facts = read(task.path)
    assert facts is not None
    assert facts["finished"]
    assert facts["ended"].startswith("not done after 0.2 s")

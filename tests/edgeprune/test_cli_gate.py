"""``edgeprune gate``: every exit code, and what is said with it."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import pytest

from edgeprune.data import load_data
from edgeprune.pipeline.gate_subjects import one_line, split_sha256

from .gate_case import write_bundle, write_classifier, write_images

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--quick", "--rounds", "2")
SURE = ("--quick", "--rounds", "4")  # of two rounds, an interval is very wide


@pytest.fixture
def run(edgeprune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs a gate in an empty folder, outside GitHub."""
    monkeypatch.setenv("EDGEPRUNE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return partial(edgeprune, "gate")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "model.onnx")


@pytest.fixture
def baseline(run: Run, model: Path) -> Path:
    """Return a baseline of the model, without decisions."""
    assert run(str(model), "--baseline", "base.json", "--update")[0] == 0
    return model.parent / "base.json"


def changed(path: Path, change: Callable[[dict[str, object]], object]) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def findings(out: str) -> dict[str, str]:
    """Return statuses by name of the check, of the JSON form."""
    return {each["name"]: each["status"] for each in json.loads(out)["findings"]}


# --- the baseline -----------------------------------------------------------------------


def test_an_unchanged_candidate_passes(run: Run, model: Path, baseline: Path) -> None:
    code, out, _ = run(str(model), "--baseline", str(baseline))
    assert code == 0
    assert out.splitlines()[-1] == "gate passed: 7 pass"
    assert "3 of the baseline" not in out


def test_writing_a_baseline_again_gives_the_same_bytes_but_for_memory(
    run: Run, model: Path, baseline: Path
) -> None:
    before = json.loads(baseline.read_text(encoding="utf-8"))
    code, out, _ = run(str(model), "--baseline", str(baseline), "--update")
    after = json.loads(baseline.read_text(encoding="utf-8"))
    assert code == 0
    assert "updated to model.onnx" in out
    del before["peak"]["bytes"], after["peak"]["bytes"]
    assert before == after
    assert str(model.parent) not in baseline.read_text(encoding="utf-8")


def test_an_update_says_what_changes(run: Run, model: Path, baseline: Path) -> None:
    write_classifier(model, layers=1)
    code, out, _ = run(str(model), "--baseline", str(baseline), "--update")
    assert code == 0
    assert "MACs" in out
    assert "Conv 0 → 1" in out
    assert run(str(model), "--baseline", str(baseline))[0] == 0


def test_growth_is_a_regression_and_names_what_grew(run: Run, model: Path, baseline: Path) -> None:
    write_classifier(model, layers=1)
    code, out, _ = run(str(model), "--baseline", str(baseline), "--json")
    assert code == 1
    statuses = findings(out)
    grown = {"MACs", "parameters", "operators"}
    assert {name for name, status in statuses.items() if status == "regression"} >= grown


def test_growth_that_is_allowed_passes(run: Run, model: Path, baseline: Path) -> None:
    write_classifier(model, layers=1)
    assert run(str(model), "--baseline", str(baseline), "--max-growth", "9000%")[0] == 0


def test_what_shrank_is_a_note(run: Run, tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "model.onnx", layers=2)
    assert run(str(path), "--baseline", "base.json", "--update")[0] == 0
    write_classifier(path)
    code, out, _ = run(str(path), "--baseline", "base.json", "--json")
    assert code == 0
    assert findings(out)["MACs"] == "note"


def test_another_file_of_the_same_counts_is_told_and_with_exact_fails(
    run: Run, model: Path, baseline: Path
) -> None:
    write_classifier(model, order=(1, 0, 2))
    code, out, _ = run(str(model), "--baseline", str(baseline), "--json")
    assert (code, findings(out)["files"]) == (0, "note")
    code, out, _ = run(str(model), "--baseline", str(baseline), "--exact", "--json")
    assert (code, findings(out)["files"]) == (5, "integrity")


def test_memory_that_grew_on_the_same_machine_is_a_regression(
    run: Run, model: Path, baseline: Path
) -> None:
    changed(baseline, lambda it: it["peak"].update(bytes=it["peak"]["bytes"] // 2))  # type: ignore[index, union-attr]
    code, out, _ = run(str(model), "--baseline", str(baseline), "--json")
    assert (code, findings(out)["peak memory"]) == (1, "regression")


def test_memory_of_another_machine_is_compared_on_request_only(
    run: Run, model: Path, baseline: Path
) -> None:
    changed(baseline, lambda it: it["peak"].update(machine="elsewhere", bytes=1))  # type: ignore[attr-defined]
    code, out, _ = run(str(model), "--baseline", str(baseline), "--json")
    assert (code, findings(out)["peak memory"]) == (0, "note")
    allowed = ("--allow-cross-machine", "--json")
    code, out, _ = run(str(model), "--baseline", str(baseline), *allowed)
    assert (code, findings(out)["peak memory"]) == (1, "regression")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it.update(schema_version=2), "schema version 2"),
        (lambda it: it.update(format="other"), "no baseline of edgeprune's gate"),
        (lambda it: it.pop("files"), "damaged: baseline lacks files"),
        (lambda it: it["counts"].update(macs="many"), "damaged: baseline.counts.macs"),
        (lambda it: it.update(more=1), "fields that are not known: more"),
    ],
)
def test_a_baseline_that_cannot_be_read_is_a_usage_error(
    change: Callable[[dict[str, object]], object],
    words: str,
    run: Run,
    model: Path,
    baseline: Path,
) -> None:
    changed(baseline, change)
    code, _, err = run(str(model), "--baseline", str(baseline))
    assert code == 2
    assert words in err
    assert run(str(model), "--baseline", str(baseline), "--update")[0] == 0


# --- integrity --------------------------------------------------------------------------


def test_a_bundle_with_a_changed_file_fails_before_anything_runs(run: Run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    assert run(str(bundle), "--baseline", "base.json", "--update")[0] == 0
    assert run(str(bundle), "--baseline", "base.json")[0] == 0
    write_classifier(bundle / "artifacts" / "onnx" / "model.onnx", order=(1, 0, 2))
    code, out, _ = run(str(bundle), "--baseline", "base.json", "--junit", "gate.xml", "--json")
    assert code == 5
    assert findings(out) == {"manifest": "integrity"}
    failures = ET.parse(tmp_path / "gate.xml").findall(".//failure")  # noqa: S314 - our own
    assert [each.get("type") for each in failures] == ["integrity"]


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_candidate_that_is_damaged_fails_for_that(
    content: bytes, run: Run, model: Path, baseline: Path
) -> None:
    model.write_bytes(content)
    assert run(str(model), "--baseline", str(baseline))[0] == 5


# --- accuracy ---------------------------------------------------------------------------


def test_accuracy_that_fell_fails_by_the_baseline_s_own_decisions(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data = ("--data", str(write_images(tmp_path / "squares.npz")))
    base = ("--baseline", "base.json")
    assert run(str(model), *base, *data, "--update")[0] == 0
    code, out, _ = run(str(model), *base, *data, "--json")
    assert (code, findings(out)["accuracy"]) == (0, "pass")
    write_classifier(model, order=(1, 0, 2))
    code, out, _ = run(str(model), *base, *data, "--json")
    assert code == 4
    classes = {"sensitivity of 0": "accuracy", "sensitivity of 2": "pass"}
    assert findings(out).items() >= {"accuracy": "accuracy", **classes}.items()


def test_decisions_without_images_are_not_passed_over_in_silence(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data = ("--data", str(write_images(tmp_path / "squares.npz")))
    assert run(str(model), "--baseline", "base.json", *data, "--update")[0] == 0
    code, out, _ = run(str(model), "--baseline", "base.json")
    assert code == 0
    assert "not judged, though the baseline could: give --data PATH" in out


def test_another_test_split_is_inconclusive_and_can_be_accepted(
    run: Run, model: Path, tmp_path: Path
) -> None:
    first = str(write_images(tmp_path / "squares.npz"))
    assert run(str(model), "--baseline", "base.json", "--data", first, "--update")[0] == 0
    other = ("--data", str(write_images(tmp_path / "others.npz", test=150)))
    code, out, _ = run(str(model), "--baseline", "base.json", *other)
    assert code == 3
    assert "made on another test split, of 300 images; here there are 150" in out
    accepted = (*other, "--inconclusive", "pass")
    code, out, _ = run(str(model), "--baseline", "base.json", *accepted)
    assert code == 0
    assert "(accepted)" in out


def test_a_split_is_known_by_its_images_and_their_labels(tmp_path: Path) -> None:
    data = load_data(write_images(tmp_path / "squares.npz"))
    renamed = replace(data.test, ids=tuple(f"other/{each}" for each in data.test.ids))
    relabelled = replace(data.test, labels=data.test.labels[::-1].copy())
    hashes = {split_sha256(replace(data, test=each)) for each in (data.test, renamed, relabelled)}
    assert len(hashes) == 3
    assert split_sha256(data) in hashes


def test_too_few_images_cannot_show_that_accuracy_held(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data = ("--data", str(write_images(tmp_path / "squares.npz", test=30)))
    assert run(str(model), "--baseline", "base.json", *data, "--update")[0] == 0
    code, out, _ = run(str(model), "--baseline", "base.json", *data, "--json")
    assert (code, findings(out)["accuracy"]) == (3, "inconclusive")
    assert findings(out)["sensitivity of 0"] == "note"
    wide = ("--max-drop", "20", "--max-class-drop", "40")
    assert run(str(model), "--baseline", "base.json", *data, *wide)[0] == 0


# --- latency ----------------------------------------------------------------------------


def test_a_slower_candidate_fails_after_it_was_measured_twice(
    run: Run, model: Path, tmp_path: Path
) -> None:
    slow = write_classifier(tmp_path / "slow.onnx", layers=150)
    limits = ("--max-slowdown", "50%")
    code, out, _ = run(str(slow), "--against", str(model), *limits, *SURE, "--json")
    report = json.loads(out)
    assert code == 1
    assert findings(out)["latency"] == "regression"
    assert min(report["timing"]["first"]["low"], report["timing"]["second"]["low"]) > 1.5


def test_a_candidate_passes_against_itself_where_much_is_allowed(run: Run, model: Path) -> None:
    limits = ("--max-slowdown", "900%")
    code, out, _ = run(str(model), "--against", str(model), *limits, *QUICK, "--json")
    assert code == 0
    assert findings(out)["latency"] == "pass"
    assert json.loads(out)["timing"]["second"] is None


def test_a_candidate_that_does_not_run_is_inconclusive_not_a_regression(
    run: Run, model: Path, baseline: Path, tmp_path: Path
) -> None:
    broken = onnx.load(model)
    broken.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(broken, model)
    code, out, err = run(str(model), "--baseline", str(baseline), "--max-growth", "100%")
    assert code == 3
    assert "NoSuchOperator" in out
    assert str(tmp_path) not in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("cannot open '/home/me/models/model.onnx'", "cannot open 'model.onnx'"),
        ("at /model.onnx: bad\n\n  magic", "at model.onnx: bad | magic"),
        (r"no file C:\Users\me\model.onnx", "no file model.onnx"),
        ("onnx/model.onnx took 1/2 of it", "onnx/model.onnx took 1/2 of it"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("Check 'a.compatible(b)' failed at src/plugins/x.cpp:385", None),
    ],
)
def test_folders_of_this_machine_are_left_out_of_findings(said: str, told: str | None) -> None:
    assert one_line(ValueError(said)) == (told or said)


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give what to judge by"),
        (("--update",), "say where with --baseline"),
        (("--exact", "--against", "model.onnx"), "give --baseline FILE"),
        (("--baseline", "nowhere.json"), "there is no baseline 'nowhere.json'"),
        (("--against", "model.onnx", "--max-drop", "0"), "more than 0"),
        (("--against", "model.onnx", "--max-slowdown=-1%"), "give 0 or more"),
        (("--against", "model.onnx", "--max-slowdown", "two"), "no number of per cent"),
        (("--against", "model.onnx", "--rounds", "3"), "an even number"),
        (("--against", "model.onnx", "--inconclusive", "ignore"), "'fail', 'pass'"),
        (("--against", "nowhere.onnx"), "there is nothing at 'nowhere.onnx'"),
        (("--against", "model.onnx", "--device", "tpu"), "tpu"),
    ],
)
def test_a_mistake_in_the_options_is_a_usage_error(
    options: tuple[str, ...], words: str, run: Run, model: Path
) -> None:
    code, _, err = run(str(model), *options)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_two_that_take_other_images_or_know_other_classes_are_not_compared(
    run: Run, model: Path, tmp_path: Path
) -> None:
    other = write_classifier(tmp_path / "other.onnx", classes=5)
    code, _, err = run(str(model), "--against", str(other), *QUICK)
    assert code == 2
    assert "3 classes apart, --against 5" in err


def test_images_that_are_not_there_are_not_a_regression(
    run: Run, model: Path, baseline: Path
) -> None:
    words = ("--against", str(model), "--max-slowdown", "900%", *QUICK, "--json")
    code, out, _ = run(str(model), "--baseline", str(baseline), "--data", "nowhere.npz", *words)
    assert code == 3
    assert findings(out)["accuracy"] == "inconclusive"


def test_the_help_tells_every_exit_code(run: Run) -> None:
    _, out, _ = run("--help")
    for code in range(6):
        assert re.search(rf"^ +{code}  \w", out, re.MULTILINE)


def test_images_without_anything_to_compare_with_are_a_usage_error(
    run: Run, model: Path, baseline: Path
) -> None:
    code, _, err = run(str(model), "--baseline", str(baseline), "--data", "squares.npz")
    assert code == 2
    assert "write the baseline with --data as well" in err


def test_accuracy_is_compared_with_the_other_artifact_where_the_baseline_has_none(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data = ("--data", str(write_images(tmp_path / "squares.npz")))
    worse = write_classifier(tmp_path / "worse.onnx", order=(1, 0, 2))
    rest = (*data, *QUICK, "--max-slowdown", "900%", "--json")
    code, out, _ = run(str(worse), "--against", str(model), *rest)
    assert (code, findings(out)["accuracy"]) == (4, "accuracy")
    code, out, _ = run(str(model), "--against", str(worse), *rest)
    assert (code, findings(out)["accuracy"]) == (0, "pass")


def test_where_the_other_artifact_does_not_run_nothing_is_judged_by_it(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data = ("--data", str(write_images(tmp_path / "squares.npz")))
    broken = onnx.load(model)
    broken.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(broken, tmp_path / "broken.onnx")
    code, out, _ = run(str(model), "--against", "broken.onnx", *data, "--json")
    statuses = findings(out)
    assert (code, statuses["latency"], statuses["accuracy"]) == (3, "inconclusive", "inconclusive")


# --- what other tools read --------------------------------------------------------------


def test_in_github_actions_findings_become_annotations_and_a_summary(
    run: Run, model: Path, baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("what was there\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    write_classifier(model, layers=1)
    code, out, _ = run(str(model), "--baseline", str(baseline), "--markdown", "gate.md")
    assert code == 1
    assert "::error title=MACs%2C model.onnx::" in out
    told = (tmp_path / "gate.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == f"what was there\n\n{told}"
    assert "| model.onnx | MACs | regression |" in told


def test_json_stays_json_in_github_actions(
    run: Run, model: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    write_classifier(model, layers=1)
    _, out, err = run(str(model), "--baseline", str(baseline), "--json")
    assert json.loads(out)["verdict"] == "regression"
    assert "::error title=MACs" in err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no way to take the network away")
def test_a_gate_needs_no_network(run: Run, model: Path, tmp_path: Path) -> None:
    data = ["--data", str(write_images(tmp_path / "squares.npz"))]
    assert run(str(model), "--baseline", "base.json", *data, "--update")[0] == 0
    alone = ["unshare", "-rn", sys.executable, "-m", "edgeprune.cli"]
    if subprocess.run([*alone, "--version"], check=False).returncode:
        pytest.skip("this machine lets no one take the network away")
    words = ["gate", str(model), "--baseline", "base.json", *data, "--against", str(model)]
    ended = subprocess.run(
        [*alone, *words, *QUICK, "--inconclusive", "pass"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "accuracy" in ended.stdout

"""The comparison of precisions: who runs when, what is made again, and what is written."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("precision", reason="benchmarks need an editable install")

from edgeprune.progress import Silent
from edgeprune_benchmarks.harness import MeasureSettings, Subject
from edgeprune_benchmarks.process import RunnerProcess
from precision import table
from precision_artifacts import Made, Variant
from precision_turns import Entry, take_turns, turn_order
from results_file import marks, write_section

from .conftest import Tiny, images

BRIEF = MeasureSettings(
    rounds=2, blocks=3, block_seconds=0.01, warmup_seconds=0.02, warmup_limit=0.2, timeout=60.0
)


def entry(path: Path, name: str, arithmetic: str = "f32") -> Entry:
    return Entry(subject=Subject(name=name, artifact=path), arithmetic=arithmetic)


def made(variant: Variant, points: float = 0.0) -> Made:
    return Made(
        variant=variant, file="model.xml", size=2_500_000, accuracy=0.97 + points / 100,
        points=points, low=points - 0.5, high=points + 0.5, disagreement=0.01,
        kept={"Softmax: its scores overflow": 3}, notes=("calibrated on 300 images",),
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 3, 6])
def test_everyone_has_one_block_per_turn_and_every_other_turn_goes_backwards(count: int) -> None:
    order = turn_order(count, 0, 4)
    turns = [order[k : k + count] for k in range(0, len(order), count)]
    assert all(sorted(turn) == list(range(count)) for turn in turns)
    assert turns[1] == turns[0][::-1]
    assert turns[2] == turns[0]


def test_everyone_starts_a_round_equally_often() -> None:
    assert Counter(turn_order(3, number, 2)[0] for number in range(6)) == {0: 2, 1: 2, 2: 2}


def test_every_artifact_has_its_own_processes_and_its_own_arithmetic(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int, object]] = []
    ask = RunnerProcess.ask

    def listening(self: RunnerProcess, do: str, timeout: float, /, **words: object) -> object:
        asked.append((do, self.name, self.pid, words.get("precision")))
        return ask(self, do, timeout, **words)

    monkeypatch.setattr(RunnerProcess, "ask", listening)
    entries = [entry(tiny.onnx, "A"), entry(tiny.ir, "B"), entry(tiny.ir, "C", "bf16")]
    found = take_turns(entries, images(2), BRIEF, Silent())
    blocks = "".join(name for do, name, _, _ in asked if do == "block")
    assert blocks == "ABCCBAABC" + "BCAACBBCA"
    assert len({pid for _, _, pid, _ in asked}) == 6
    loads = {(name, precision) for do, name, _, precision in asked if do == "load"}
    assert loads == {("A", "f32"), ("B", "f32"), ("C", "bf16")}
    assert [len(each.blocks) for each in found.timed] == [2, 2, 2]
    assert found.timed[0].runs_in == "f32"


def test_more_work_takes_more_time_in_turns_too(tiny: Tiny, heavy: Path) -> None:
    found = take_turns([entry(tiny.onnx, "A"), entry(heavy, "B")], images(2), BRIEF, Silent())
    light, slow = found.timed
    assert slow.median_ms > 3 * light.median_ms > 0


def test_a_row_says_how_much_faster_than_the_first_it_is_and_what_stayed_precise(
    tiny: Tiny,
) -> None:
    found = take_turns([entry(tiny.onnx, "A")] * 2, images(2), BRIEF, Silent())
    first = replace(found.timed[0], blocks=(((6_000_000,) * 5,) * 3,) * 2, runs_in="f32")
    second = replace(first, blocks=(((1_500_000,) * 5,) * 3,) * 2, runs_in="i8+u8")
    turns = replace(found, timed=(first, second), doubts=("it was warm",))
    variants = Variant(model="dense", precision="fp32"), Variant(model="slim", precision="int8")
    text = table("net, data", "openvino", "Slim.", [made(v) for v in variants], turns)
    dense, slim = [line for line in text.splitlines() if line.startswith(("| dense", "| slim"))]
    assert dense.startswith("| dense fp32 | f32 | 6.00 | 1.00 [1.00, 1.00] | 97.00 % |")
    assert slim.startswith("| slim int8 | i8+u8 | 1.50 | 4.00 [4.00, 4.00] |")
    assert slim.endswith("| 2.5 | 3 Softmax: its scores overflow |")
    assert "- dense fp32, slim int8: calibrated on 300 images" in text
    assert "it was warm" in text


def test_a_section_takes_the_place_of_the_last_one_and_of_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## Other\n\nfigures\n", encoding="utf-8")
    write_section("precision", "## Precision\n\nold", path)
    path.write_text(path.read_text(encoding="utf-8") + "\n## Later\n\nmore\n", encoding="utf-8")
    write_section("precision", "## Precision\n\nnew", path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Results\n\n## Other\n\nfigures\n")
    write_section("precision", "## Precision\n\nnew", path)
    assert path.read_text(encoding="utf-8") == text
    assert text.endswith("\n## Later\n\nmore\n")
    assert "old" not in text
    begin, end = marks("precision")
    assert text.count(begin) == text.count(end) == text.count("new") == 1

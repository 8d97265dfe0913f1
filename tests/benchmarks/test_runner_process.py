import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.process import RUNNER, RunnerProcess

from .conftest import Tiny

PATIENCE = 60.0
FAT = 200_000_000  # bytes


def script(text: str) -> RunnerProcess:
    return RunnerProcess("dense", [sys.executable, "-c", text])


def test_a_runner_killed_in_the_middle_of_a_block_is_reported(tiny: Tiny) -> None:
    with RunnerProcess("dense") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        runner.ask("warmup", PATIENCE, seconds=0.01)
        threading.Timer(0.3, os.kill, (runner.pid, signal.SIGKILL)).start()
        with pytest.raises(MeasureError, match=r"of dense was killed by signal 9 .*during 'block'"):
            runner.ask("block", PATIENCE, seconds=30, iterations=1)


def test_a_runner_that_is_dead_already_is_reported() -> None:
    with RunnerProcess("dense") as runner:
        runner.ask("memory", PATIENCE)
        os.kill(runner.pid, signal.SIGKILL)
        with pytest.raises(MeasureError, match="signal 9"):
            runner.ask("memory", PATIENCE)
        with pytest.raises(MeasureError, match="signal 9"):
            runner.ask("memory", PATIENCE)


def test_the_last_words_of_a_dead_runner_are_shown() -> None:
    with (
        script("import sys; input(); sys.exit('no memory for tensors')") as runner,
        pytest.raises(MeasureError, match=r"exit code 1 during 'load'(?s:.*)no memory for tensors"),
    ):
        runner.ask("load", PATIENCE)


def test_a_runner_that_hangs_is_given_up_and_ended() -> None:
    with RunnerProcess("dense") as runner:
        runner.ask("memory", PATIENCE)
        os.kill(runner.pid, signal.SIGSTOP)
        with pytest.raises(MeasureError, match=r"did not answer 'memory' within 0\.3 s"):
            runner.ask("memory", 0.3)
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "[1]",
        "null",
        '{"id": 1}',
        '{"id": 2, "ok": true}',
        '{"id": 1, "ok": false}',
        "\\xff",
    ],
)
def test_garbage_on_stdout_is_named(line: str) -> None:
    with (
        script(f"input(); print('{line}', flush=True); input()") as runner,
        pytest.raises(MeasureError, match="which is no answer"),
    ):
        runner.ask("memory", PATIENCE)


def test_a_runner_that_closes_its_output_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeprune_benchmarks.process.GRACE", 0.2)
    with (
        script("import os, time; input(); os.close(1); time.sleep(60)") as runner,
        pytest.raises(MeasureError, match="closed its output during 'memory'"),
    ):
        runner.ask("memory", PATIENCE)


def test_the_child_does_not_inherit_the_parents_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with RunnerProcess("dense") as runner:
        runner.ask("memory", PATIENCE)
        seen = Path(f"/proc/{runner.pid}/environ").read_text()
    assert "PATH=" in seen
    assert "OMP_NUM_THREADS" not in seen


def test_a_preloaded_library_does_not_reach_the_runner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("KMP_AFFINITY", "disabled")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # a choice, not an influence
    with RunnerProcess("dense") as runner:
        runner.ask("memory", PATIENCE)
        seen = Path(f"/proc/{runner.pid}/environ").read_text()
    assert "LD_PRELOAD" not in seen
    assert "KMP_" not in seen
    assert "CUDA_VISIBLE_DEVICES=1" in seen


def test_a_command_that_leads_to_the_runner_may_have_its_own_environment() -> None:
    command = [sys.executable, str(RUNNER), "serve"]
    with RunnerProcess("dense", command, environment={"SSH_AUTH_SOCK": "here"}) as runner:
        runner.ask("memory", PATIENCE)
        seen = Path(f"/proc/{runner.pid}/environ").read_text()
    assert "SSH_AUTH_SOCK=here" in seen
    assert "HOME=" not in seen


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_the_peak_of_a_runner_does_not_hold_what_its_parent_holds() -> None:
    parent = f"""
import numpy as np
from edgeprune_benchmarks.process import RunnerProcess
held = np.ones({FAT} // 8)
with RunnerProcess("dense") as runner:
    print(runner.ask("memory", 60)["peak_bytes"], held.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    peak, held = map(int, done.stdout.split())
    assert held == FAT
    assert 0 < peak < FAT / 2


def test_a_greeting_before_the_marker_is_dropped() -> None:
    text = """
import json, sys
print("Welcome to Ubuntu"); print("{}"); print("from > here"); sys.stdout.flush()
for line in sys.stdin:
    print(json.dumps({"id": json.loads(line)["id"], "ok": True, "heard": line}), flush=True)
"""
    command = [sys.executable, "-c", text]
    with RunnerProcess("dense", command, marker="> here") as runner:
        assert "memory" in runner.ask("memory", PATIENCE)["heard"]
        assert runner.ask("state", PATIENCE)["id"] == 2


def test_an_explanation_takes_the_place_of_an_exit_code_where_there_is_one() -> None:
    def explain(code: int, words: str) -> str | None:
        return f"unreachable: {words}" if code == 255 else None

    for code, message in ((255, "^unreachable: no route$"), (254, "ended with exit code 254")):
        command = [
            sys.executable,
            "-c",
            f"import sys; print('no route', file=sys.stderr); sys.exit({code})",
        ]
        with (
            RunnerProcess("dense", command, explain=explain) as runner,
            pytest.raises(MeasureError, match=message),
        ):
            runner.ask("memory", PATIENCE)


def test_two_runners_can_work_at_the_same_time(tiny: Tiny) -> None:
    with RunnerProcess("dense") as dense, RunnerProcess("slim") as slim:
        for runner in (dense, slim):
            runner.send("load", artifact=str(tiny.onnx))
        answers = [runner.answer(PATIENCE) for runner in (slim, dense)]
    assert [answer["backend"] for answer in answers] == ["onnxruntime"] * 2


def test_leaving_the_context_ends_the_process() -> None:
    with RunnerProcess("dense") as runner:
        runner.ask("memory", PATIENCE)
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)

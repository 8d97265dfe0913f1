import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.process import RunnerProcess

from .conftest import Tiny

PATIENCE = 60.0


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


def test_leaving_the_context_ends_the_process() -> None:
    with RunnerProcess("dense") as runner:
        runner.ask("memory", PATIENCE)
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)

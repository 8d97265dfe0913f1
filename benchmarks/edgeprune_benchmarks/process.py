"""One device runner as a child process.

The child is started with a short, clean environment and told nothing but its
commands, so that what it does depends on the artifact and not on this process:
neither ``OMP_NUM_THREADS`` nor a preloaded allocator reaches it, and as it is
another program, its peak memory begins at its own start. Whatever goes wrong with
it, death, silence or nonsense, ends as one ``MeasureError`` that shows the child's
last words.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.closing import Closing
from edgeprune_benchmarks.commands import program

RUNNER: Final = Path(__file__).with_name("device_runner.py")
KEPT: Final = (
    *("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),  # which GPU the user chose
)
GRACE: Final = 5.0  # seconds between the end of a child's output and its own
LAST_WORDS: Final = 2000  # characters of stderr that an error shows

Answer: TypeAlias = Mapping[str, Any]
Explain: TypeAlias = Callable[[int, str], str | None]


class RunnerProcess(Closing):
    """A running device runner; a context manager that leaves no process behind.

    ``name`` is what errors call it. ``command`` starts it; the default is this
    Python and this package's runner. The rest is for a command that only leads to
    the runner, as ``ssh`` does: ``environment`` takes the place of the clean one,
    what is printed up to a line that ends with ``marker``, a login's greeting, is
    dropped, and ``explain`` says what an exit code and the last words mean where it
    knows better than this class.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        marker: str | None = None,
        explain: Explain | None = None,
    ) -> None:
        """Start the process; nothing is loaded yet."""
        self.name = name
        self._asked = 0
        self._doing = ""
        self._marker = marker
        self._explain = explain
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._child = subprocess.Popen(
            command or program(sys.executable, RUNNER, "serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment() if environment is None else dict(environment),
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # A thread, because Windows cannot wait on a pipe with a time-out.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def ask(self, do: str, timeout: float, /, **words: object) -> Answer:
        """Send one command and return its answer.

        Raises ``MeasureError`` when the runner refuses the command, dies, says
        something that is no answer, or needs more than ``timeout`` seconds.
        """
        self.send(do, **words)
        return self.answer(timeout)

    def send(self, do: str, /, **words: object) -> None:
        """Send one command and leave its answer for ``answer`` to fetch."""
        self._asked += 1
        self._doing = do
        message = json.dumps({"id": self._asked, "do": do, **words})
        try:
            _pipe(self._child.stdin).write(message + "\n")
            _pipe(self._child.stdin).flush()
        except OSError as error:
            raise self._died() from error

    def answer(self, timeout: float) -> Answer:
        """Return the answer to the command sent last; raises as ``ask`` does."""
        do = self._doing
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty as error:
            late = f"did not answer {do!r} within {timeout:g} s (allow more, or a smaller batch)"
            raise self._failed(late) from error
        if line is None:
            raise self._died()
        answer = _parsed(line)
        if answer is None or answer.get("id") != self._asked:
            raise self._failed(f"answered {do!r} with {line.strip()[:200]!r}, which is no answer")
        if not answer["ok"]:
            raise MeasureError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process; it holds nothing that a kill could leave half done."""
        self._child.kill()
        self._child.wait()
        self._reader.join()
        for pipe in (self._child.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        try:
            _pipe(self._child.stdin).close()
        except OSError:
            return  # it died with a command unread

    def _read(self) -> None:
        lines = iter(_pipe(self._child.stdout))
        if self._marker is not None:
            any(line.rstrip().endswith(self._marker) for line in lines)  # up to and with it
        for line in lines:
            self._lines.put(line)
        self._lines.put(None)

    def _died(self) -> MeasureError:
        try:
            code = self._child.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            return self._failed(f"closed its output during {self._doing!r}")
        if self._explain is not None and (meaning := self._explain(code, self._last_words())):
            return MeasureError(meaning)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == -9 else ""
        return self._failed(f"{how}{hint} during {self._doing!r}")

    def _failed(self, what: str) -> MeasureError:
        self._child.kill()
        words = self._last_words()
        heard = f"; its last words:\n{words}" if words else "; it left no message"
        return MeasureError(f"the device runner of {self.name} {what}{heard}")

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - LAST_WORDS, 0))
        return self._errors.read().decode(errors="replace").strip()


def _environment() -> dict[str, str]:
    """Return the few variables a runtime needs to be found, and one that quietens numpy."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "OPENBLAS_NUM_THREADS": "1"}


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise MeasureError("the device runner was started without pipes")
    return stream


def _parsed(line: str) -> dict[str, Any] | None:
    """Return an answer, or None when the line is none."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(answer, dict) and "ok" in answer and ("error" in answer or answer["ok"])
    return answer if whole else None

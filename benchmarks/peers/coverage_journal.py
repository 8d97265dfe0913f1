"""What one worker process finds out about one family, on disk after every stage.

A worker may be killed for its time or memory at any moment, so the facts lie in
a file that is replaced as a whole: what was found before stays known, and the
stage that was running is named.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeprune.files import write_json

Result = TypeVar("Result")
LONGEST_REASON: Final = 160


class Journal:
    """The facts about one family with one tool.

    Attributes:
        facts: what is known; ``stages`` holds the seconds of each stage, and why
            it failed if it did.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Begin with what is known beforehand."""
        self.path = path
        self.facts: dict[str, Any] = {**facts, "stages": {}, "finished": False}
        self.note({})

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts and write all of them."""
        self.facts.update(facts)
        write_json(self.path, self.facts)

    def run(self, stage: str, step: Callable[[], Result]) -> Result | None:
        """Return what a step returns, or None if it raised: the reason is noted."""
        self.note({"running": stage})
        started, error, result = time.perf_counter(), None, None
        try:
            result = step()
        except Exception as raised:  # whatever a tool raises is a fact about it
            error = reason(raised)
        seconds = time.perf_counter() - started
        self.facts["stages"][stage] = {"seconds": round(seconds, 3), "error": error}
        self.note({"running": None})
        return result

    def finish(self) -> None:
        """State that nothing more will come."""
        self.note({"finished": True})


def read(path: Path) -> dict[str, Any] | None:
    """Return the facts in a journal's file, or None if there are none."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def reason(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"

"""One command, run to its end, with what it said.

Invariant: when ``run`` returns or raises, the process it started is gone.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.errors import MeasureError

__all__ = ["Called", "run"]


@dataclass(frozen=True, kw_only=True)
class Called:
    """How a command ended, and what it said."""

    code: int  # exit code; negative: the signal that ended it
    out: str
    err: str


def run(
    command: Sequence[str],
    timeout: float,
    *,
    name: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Called:
    """Run a command for at most ``timeout`` seconds; ``name`` is what errors call it.

    Its standard input stays open and empty until it ends: across a network, an input
    that closes says that nobody waits any more.
    Raises ``MeasureError`` when it cannot be started, or needs longer.
    """
    called = name or command[0]
    ours, theirs = os.pipe()
    try:
        ended = subprocess.run(
            command,
            stdin=ours,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasureError(f"{called} did not end within {timeout:g} s") from error
    except OSError as error:
        raise MeasureError(f"{called} cannot be started: {error.strerror or error}") from error
    finally:
        os.close(ours)
        os.close(theirs)
    return Called(code=ended.returncode, out=ended.stdout, err=ended.stderr)

"""How commands are started, and one that is run to its end.

Invariant: when ``run`` returns or raises, the process it started is gone.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from edgeprune.errors import MeasureError

__all__ = ["Called", "program", "run"]

START: Final = """\
import importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.spec_from_file_location(*sys.argv[1:3])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
del sys.argv[1:3]
spec.loader.exec_module(module)
sys.exit(module.main())"""


@dataclass(frozen=True, kw_only=True)
class Called:
    """How a command ended, and what it said."""

    code: int  # exit code; negative: the signal that ended it
    out: str
    err: str


def program(python: str, path: PurePath | str, *words: str) -> list[str]:
    """Return the command that runs ``main()`` of a file.

    A file that is run as a script is compiled every time, which takes memory that a
    measurement would count; one that is imported is compiled once.
    """
    return [python, "-c", START, PurePath(path).stem, str(path), *words]


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

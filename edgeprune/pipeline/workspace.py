"""Where a run keeps what each stage made, so that it can be resumed.

The bundle appears in one rename, when everything is done. Until then each
stage's results are in a folder beside it, itself renamed into place when that
stage is complete: what is there is whole, what is missing is made again.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgeprune.errors import UsageError
from edgeprune.files import replacing_folder, write_json
from edgeprune.pipeline.settings import differences

T = TypeVar("T")


class Workspace:
    """The folder of one run's stages.

    Attributes:
        out: where the bundle will appear.
        folder: where stages are kept, ``OUT.work``.
    """

    def __init__(self, out: Path) -> None:
        """Name the folders; nothing is written yet."""
        self.out = out
        self.folder = out.with_name(out.name + ".work")

    def check(self, *, resume: bool) -> None:
        """Say at once, before any work, if this run cannot be written.

        Raises:
            UsageError: the output is not empty, or there is an unfinished run
                and nobody asked to resume it.
        """
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir())):
            raise UsageError(f"'{self.out}' is not empty: choose another --out, or remove it")
        if self._settings.exists() and not resume:
            raise UsageError(
                f"'{self.folder}' holds an earlier run: continue it with --resume, "
                "or remove it to start anew"
            )

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begin a run, or continue one that had the same settings and data.

        Raises:
            UsageError: the earlier run had other settings.
        """
        if not self._settings.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            write_json(self._settings, dict(settings))
            return
        before = json.loads(self._settings.read_text(encoding="utf-8"))
        # As stored, so that a tuple and the list it became are the same.
        changed = differences(json.loads(json.dumps(settings)), before)
        if changed:
            raise UsageError(
                f"'{self.folder}' was made with other settings: {'; '.join(changed)}. "
                "Resume with the same, or choose another --out"
            )

    @property
    def _settings(self) -> Path:
        return self.folder / "settings.json"

    def stage(self, name: str, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
        """Make a stage's folder unless it is there, and read it.

        What a stage gives is always what was stored, also in the run that made
        it: a resumed run cannot differ.
        """
        folder = self.folder / name
        if not folder.is_dir():
            with replacing_folder(folder) as temporary:
                make(temporary)
        return read(folder)

    def checkpoint(self, name: str) -> Path:
        """Return a file for a stage to store its own progress in."""
        return self.folder / f"{name}.checkpoint"

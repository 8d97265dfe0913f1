"""Where a run keeps what each stage made, so that it can be resumed.

The bundle appears in one rename, when everything is done. Until then each
stage's results are in a folder beside it, itself renamed into place when that
stage is complete: what is there is whole, what is missing is made again.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeprune.errors import BundleError, EdgepruneError, UsageError
from edgeprune.files import replacing_folder, write_json
from edgeprune.pipeline.settings import differences

T = TypeVar("T")

SETTINGS: Final = "settings.json"
LOCK: Final = "lock"
DAMAGE: Final = (EdgepruneError, OSError, ValueError, KeyError, TypeError, AttributeError)


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

    @property
    def begun(self) -> bool:
        """Whether an earlier run left something worth resuming."""
        return any(name != SETTINGS for name in self._names())

    def check(self, *, resume: bool) -> None:
        """Say at once, before any work, if an earlier run or somebody's folder is in the way.

        Raises:
            UsageError: the folder of stages is another's, or there is an
                unfinished run and nobody asked to resume it.
        """
        foreign = self.folder.is_dir() and self._names() and not self._settings.is_file()
        if foreign or (self.folder.exists() and not self.folder.is_dir()):
            raise UsageError(
                f"'{self.folder}' is where this run would keep its intermediate results, but it is "
                "no folder of edgeprune's: choose another --out, or move it away"
            )
        if self.begun and not resume:
            raise UsageError(
                f"'{self.folder}' holds an earlier run: continue it with --resume, "
                "or remove it to start anew"
            )

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Begin a run, or continue one that had the same settings and data.

        Raises:
            UsageError: the earlier run had other settings, or is still going on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / LOCK):
            # As stored, so that a tuple and the list it became are the same.
            asked = json.loads(json.dumps(settings))
            if self.begun:
                self._compare(asked)
            for path in self.folder.glob(".*"):  # what a killed run had not finished
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            write_json(self._settings, asked)
            yield

    def has(self, name: str) -> bool:
        """Say whether a stage is complete."""
        return (self.folder / name).is_dir()

    def stage(self, name: str, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
        """Make a stage's folder unless it is there, and read it.

        What a stage gives is always what was stored, also in the run that made
        it: a resumed run cannot differ.

        Raises:
            BundleError: what an earlier run stored is damaged.
        """
        folder = self.folder / name
        if self.has(name):
            try:
                return read(folder)
            except DAMAGE as error:
                raise BundleError(
                    f"'{folder}' of the earlier run is damaged ({error}): remove it, and continue "
                    "with --resume"
                ) from error
        with replacing_folder(folder) as temporary:
            make(temporary)
        self.checkpoint(name).unlink(missing_ok=True)
        return read(folder)

    def publish(self, name: str) -> None:
        """Move a complete stage's folder to where the bundle belongs."""
        if self.out.is_dir():
            self.out.rmdir()
        (self.folder / name).replace(self.out)

    def checkpoint(self, name: str) -> Path:
        """Return a file for a stage to store its own progress in."""
        return self.folder / f"{name}.checkpoint"

    @property
    def _settings(self) -> Path:
        return self.folder / SETTINGS

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return [name for name in names if not name.startswith(".") and name != LOCK]

    def _compare(self, asked: Mapping[str, Any]) -> None:
        try:
            before = json.loads(self._settings.read_text(encoding="utf-8"))
            changed = differences(asked, before)
        except (OSError, ValueError, AttributeError):
            raise UsageError(
                f"'{self._settings}' is damaged: remove '{self.folder}' to start anew"
            ) from None
        if changed:
            raise UsageError(
                f"'{self.folder}' was made with other settings: {'; '.join(changed)}. "
                "Resume with the same, or choose another --out"
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    with path.open("a") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another run is working in '{path.parent}': wait for it, or choose another "
                    "--out"
                ) from None
        yield

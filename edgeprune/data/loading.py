"""One door to every form of data: phantoms, a folder, a CSV table, an .npz archive."""

from __future__ import annotations

from pathlib import Path

from edgeprune.data.archives import load_archive
from edgeprune.data.files import Listing, load_files
from edgeprune.data.folders import list_folder
from edgeprune.data.images import Progress
from edgeprune.data.phantoms import make_phantoms
from edgeprune.data.splits import ImageData
from edgeprune.data.tables import list_table
from edgeprune.errors import DataError


def load_data(
    source: str | Path,
    *,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> ImageData:
    """Load "phantoms", "phantoms-multilabel", a folder, a .csv or a .npz. Raises DataError.

    seed: of the phantoms, and of splits that are not given. skip_corrupt: leave out
    images that cannot be read, with a note, instead of raising. progress: called with
    the number of files checked and their total.
    """
    if source in ("phantoms", "phantoms-multilabel"):
        return make_phantoms(seed=seed, multi_label=source == "phantoms-multilabel")
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"no data at '{source}': give a folder, a .csv, a .npz, "
            "'phantoms' or 'phantoms-multilabel'"
        )
    if path.suffix.lower() == ".npz" and path.is_file():
        return load_archive(path)
    return load_files(_listed(path), seed=seed, skip_corrupt=skip_corrupt, progress=progress)


def _listed(path: Path) -> Listing:
    if path.is_dir():
        try:
            return list_folder(path)
        except OSError as error:
            raise DataError(f"folder '{path}' cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".csv":
        return list_table(path)
    kind = f"a {path.suffix} file" if path.suffix else "a file without a suffix"
    raise DataError(f"'{path}' is {kind}; give .csv or .npz")

"""Settings that several criteria have, checked alike."""

from typing import get_args

from edgeprune.attribution.criterion import Explained
from edgeprune.errors import UsageError


def require_target(explained: str) -> None:
    """Raise UsageError unless there is such a target."""
    known = get_args(Explained)
    if explained not in known:
        raise UsageError(f"explained is '{explained}': use {', '.join(known[:-1])} or {known[-1]}")


def require_rows(rows: int) -> None:
    """Raise UsageError unless at least one image runs at once."""
    if rows < 1:
        raise UsageError(f"{rows} rows run no image: use 1 or more")

"""What a compression gives back to whoever asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CompressResults:
    """The outcome of ``compress``.

    Attributes:
        bundle: the folder that was written.
        title: what was compressed for what.
        headline: dense against slim, in the shape that bundles and records share.
        lines: sentences that belong below the table.
    """

    bundle: Path
    title: str
    headline: Mapping[str, Any]
    lines: tuple[str, ...]

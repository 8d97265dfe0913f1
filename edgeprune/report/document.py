"""Read JSON that may lack anything, without ever inventing it.

A bundle can be unmeasured, partly measured or written by a later version, and a
report has to say so rather than fail. Invariant: what is absent or of another
type reads as None or as empty.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class Document:
    """A JSON value and everything below it."""

    value: object = None

    def at(self, *keys: str) -> "Document":
        """Follow keys downwards; what is not there is an empty document."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return Document(value=value)

    def number(self, *keys: str) -> float | None:
        """Return a finite number."""
        value = self.at(*keys).value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if math.isfinite(value) else None

    def text(self, *keys: str) -> str | None:
        """Return a text that is not empty."""
        value = self.at(*keys).value
        return value if isinstance(value, str) and value else None

    def flag(self, *keys: str) -> bool | None:
        """Return a truth value."""
        value = self.at(*keys).value
        return value if isinstance(value, bool) else None

    def each(self, *keys: str) -> tuple["Document", ...]:
        """Return the entries of a list."""
        value = self.at(*keys).value
        return tuple(Document(value=v) for v in value) if isinstance(value, list) else ()

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return the texts of a list."""
        return tuple(text for entry in self.each(*keys) if (text := entry.text()) is not None)

    def items(self, *keys: str) -> Iterator[tuple[str, "Document"]]:
        """Yield the members of an object."""
        value = self.at(*keys).value
        if isinstance(value, Mapping):
            yield from ((str(key), Document(value=entry)) for key, entry in value.items())

    def __bool__(self) -> bool:
        """Whether anything is there."""
        return self.value not in (None, {}, [])


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Everything in a bundle that a report is made from."""

    folder: Path
    bundle: Document
    plan: Document
    record: Document
    examples: Document

    @property
    def results(self) -> Document:
        """The headline results, which have one shape in bundles and records."""
        return self.bundle.at("results") or self.record.at("results")


def read_documents(folder: Path) -> Documents:
    """Read a bundle; all but ``bundle.json`` may be missing.

    Raises:
        BundleError: the folder is no bundle, or a document in it is damaged.
    """
    if not (folder / "bundle.json").is_file():
        raise BundleError(f"'{folder}' has no bundle.json: give a folder that compress has written")
    return Documents(
        folder=folder,
        bundle=_read(folder / "bundle.json"),
        plan=_read(folder / "plan.json"),
        record=_read(folder / "record.json"),
        examples=_read(folder / "evidence" / "examples.json"),
    )


def _read(path: Path) -> Document:
    if not path.is_file():
        return Document()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name} of the bundle cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path.name} of the bundle is not a JSON object; write the bundle again")
    return Document(value=value)

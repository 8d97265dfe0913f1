"""``bundle.json``: what a bundle is, and every file in it by size and hash.

Whoever trusts this one file can check all others against it, so a signature
over it covers the whole bundle.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeprune.errors import BundleError
from edgeprune.files import sha256, write_json

FORMAT: Final = "edgeprune-bundle"
VERSION: Final = 1
NAME: Final = "bundle.json"
UNLISTED: Final = frozenset({NAME, "signature.json"})


def write_manifest(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``bundle.json`` with the list of all other files in the folder."""
    files = [
        _listed(folder, path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNLISTED
    ]
    head = {"format": FORMAT, "version": VERSION}
    write_json(folder / NAME, head | dict(document) | {"files": files})


def relist(folder: Path, path: Path) -> None:
    """List one file of a bundle anew; the others keep their entries, right or wrong.

    Listing all anew would declare whole whatever has been damaged since.

    Raises:
        BundleError: the folder is no bundle.
    """
    document = read_manifest(folder)
    own = _listed(folder, path)
    others = [entry for entry in document["files"] if entry["path"] != own["path"]]
    files = sorted([*others, own], key=lambda entry: Path(entry["path"]))
    write_json(folder / NAME, document | {"files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a bundle's manifest.

    Raises:
        BundleError: there is none, it is damaged, or from another version.
    """
    try:
        document = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"'{folder}' is no bundle: it holds no {NAME}") from None
    except ValueError as error:
        raise BundleError(f"'{folder / NAME}' is damaged: {error}") from None
    if not isinstance(document, dict):
        raise BundleError(f"'{folder / NAME}' is damaged: it holds no JSON object")
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise BundleError(
            f"'{folder / NAME}' is {document.get('format')} version {document.get('version')}; "
            f"this edgeprune reads {FORMAT} version {VERSION}"
        )
    return document


def _listed(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    return {"path": name, "bytes": path.stat().st_size, "sha256": sha256(path)}

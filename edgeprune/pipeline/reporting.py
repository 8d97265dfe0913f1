"""The report of a bundle that is already there."""

from pathlib import Path

from edgeprune.bundle import read_manifest, write_manifest
from edgeprune.report import build_report


def rewrite_report(bundle: Path) -> Path:
    """Write ``report.html`` again from what the bundle holds, and list its new hash.

    Raises:
        BundleError: the folder is no bundle.
    """
    manifest = read_manifest(bundle)
    path = build_report(bundle)
    write_manifest(bundle, {k: v for k, v in manifest.items() if k not in ("format", "version", "files")})
    return path

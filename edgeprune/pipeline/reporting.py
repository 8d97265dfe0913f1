"""The report of a bundle that is already there."""

from pathlib import Path

from edgeprune.bundle import read_manifest, relist
from edgeprune.pipeline.storage import told_as_one_line
from edgeprune.report import build_report


def rewrite_report(bundle: Path) -> Path:
    """Write ``report.html`` again from what the bundle holds, and list its new hash.

    Raises:
        BundleError: the folder is no bundle.
        StorageError: nothing can be written there.
    """
    read_manifest(bundle)
    with told_as_one_line(bundle):
        path = build_report(bundle)
        relist(bundle, path)
    return path

"""The folder that a clinic receives: written whole, described by one manifest."""

from edgeprune.bundle.change_record import change_record
from edgeprune.bundle.golden import Golden, GoldenLimit, write_golden
from edgeprune.bundle.manifest import FORMAT, VERSION, read_manifest, relist, write_manifest

__all__ = [
    "FORMAT",
    "VERSION",
    "Golden",
    "GoldenLimit",
    "change_record",
    "read_manifest",
    "relist",
    "write_golden",
    "write_manifest",
]

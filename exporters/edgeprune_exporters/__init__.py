"""Lower a captured model to the files that one runtime loads."""

from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.exporting import EXPORTERS, export, exporters
from edgeprune_exporters.job import Exporter, Job
from edgeprune_exporters.parity import BatchParity, ParityProof

__all__ = [
    "Artifact",
    "BatchParity",
    "EXPORTERS",
    "Exporter",
    "Job",
    "ParityProof",
    "export",
    "exporters",
]

"""Lower a model to the files that one runtime loads, and prove that they compute the same."""

from edgeprune_exporters.artifact import Artifact, Kept
from edgeprune_exporters.exporting import EXPORTERS, check_options, export, exporters, find_exporter
from edgeprune_exporters.images import Images, LabelledImages
from edgeprune_exporters.job import Exporter, Job
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.options import ExportOptions
from edgeprune_exporters.parity import BatchParity, ParityProof
from edgeprune_exporters.torch_model import TorchModel
from edgeprune_exporters.wanted import Wanted, read_formats

__all__ = [
    "Artifact",
    "BatchParity",
    "EXPORTERS",
    "ExportOptions",
    "Exportable",
    "Exporter",
    "Images",
    "Job",
    "Kept",
    "LabelledImages",
    "ParityProof",
    "TorchModel",
    "Wanted",
    "check_options",
    "export",
    "exporters",
    "find_exporter",
    "read_formats",
]

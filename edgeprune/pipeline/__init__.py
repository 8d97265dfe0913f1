"""The only place that strings the steps together."""

from edgeprune.pipeline.compressing import compress
from edgeprune.pipeline.reporting import rewrite_report
from edgeprune.pipeline.results import CompressResults
from edgeprune.pipeline.settings import CompressSettings

__all__ = ["CompressResults", "CompressSettings", "compress", "rewrite_report"]

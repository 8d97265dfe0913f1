"""The only place that strings the steps together.

Its names are looked up when they are used: whoever only asks for the settings,
as ``--help`` does, waits for no runtime and no library of models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeprune.pipeline.bench_settings import BenchSettings
    from edgeprune.pipeline.benching import bench
    from edgeprune.pipeline.compressing import compress
    from edgeprune.pipeline.explaining import explain_unit
    from edgeprune.pipeline.export_settings import ExportSettings
    from edgeprune.pipeline.exporting import ExportResults, export_model
    from edgeprune.pipeline.gate_settings import GateSettings
    from edgeprune.pipeline.gating import gate
    from edgeprune.pipeline.inspecting import Inspected, InspectSettings, inspect_model
    from edgeprune.pipeline.reporting import rewrite_report
    from edgeprune.pipeline.results import CompressResults
    from edgeprune.pipeline.scoring_run import ScoreResults, score_model
    from edgeprune.pipeline.settings import CompressSettings
    from edgeprune.pipeline.unit_settings import ExplainSettings, ScoreSettings, Subject

_HOMES: Final = {
    "BenchSettings": "bench_settings",
    "CompressResults": "results",
    "CompressSettings": "settings",
    "ExplainSettings": "unit_settings",
    "ExportResults": "exporting",
    "ExportSettings": "export_settings",
    "GateSettings": "gate_settings",
    "Inspected": "inspecting",
    "InspectSettings": "inspecting",
    "bench": "benching",
    "compress": "compressing",
    "explain_unit": "explaining",
    "export_model": "exporting",
    "gate": "gating",
    "inspect_model": "inspecting",
    "rewrite_report": "reporting",
    "score_model": "scoring_run",
    "ScoreResults": "scoring_run",
    "ScoreSettings": "unit_settings",
    "Subject": "unit_settings",
}


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "BenchSettings",
    "CompressResults",
    "CompressSettings",
    "ExplainSettings",
    "ExportResults",
    "ExportSettings",
    "GateSettings",
    "InspectSettings",
    "Inspected",
    "ScoreResults",
    "ScoreSettings",
    "Subject",
    "bench",
    "compress",
    "explain_unit",
    "export_model",
    "gate",
    "inspect_model",
    "rewrite_report",
    "score_model",
]

"""``export``: proven artifacts of a trained model, for any target, at any precision it runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeprune.files import replacing_folder, write_json
from edgeprune.pipeline.checks import check_formats, check_place
from edgeprune.pipeline.estimating import latency_estimate
from edgeprune.pipeline.export_settings import ExportSettings, target_at
from edgeprune.pipeline.export_subject import Material, open_material
from edgeprune.pipeline.storage import told_as_one_line
from edgeprune.progress import Reporter, Silent
from edgeprune.targets import Target
from edgeprune_exporters import Artifact, export, read_formats

INDEX = "export.json"


@dataclass(frozen=True, kw_only=True)
class ExportResults:
    """What was written, and what is known about it.

    Attributes:
        folder: holds one folder per artifact, and ``export.json``.
        document: the contents of ``export.json``.
    """

    folder: Path
    document: Mapping[str, Any]


def export_model(
    settings: ExportSettings, out: Path, *, reporter: Reporter | None = None
) -> ExportResults:
    """Write artifacts of a model into a new folder, all of them or none.

    Raises:
        EdgepruneError: the model, the images or the options cannot be used, or an
            artifact does not compute what the model computes.
    """
    reporter = reporter or Silent()
    target = target_at(settings.target, settings.precision)
    formats = settings.formats or target.formats
    check_formats(formats, target, settings.options)
    wanted = read_formats(formats, target)
    check_place(out)
    real = any(each.precision != "fp32" for each in wanted)
    material = open_material(settings, reporter, real=real)
    for note in material.notes:
        reporter.say(note)
    reporter.stage(f"Export {', '.join(f'{w.format} {w.precision}' for w in wanted)}")
    with told_as_one_line(out), replacing_folder(out) as folder:
        artifacts = export(
            material.model,
            target,
            folder,
            material.images,
            formats=formats,
            metadata=material.metadata,
            options=settings.options,
            reporter=reporter,
        )
        document = _document(settings, target, material, artifacts)
        write_json(folder / INDEX, document)
    return ExportResults(folder=out, document=document)


def _document(
    settings: ExportSettings,
    target: Target,
    material: Material,
    artifacts: tuple[Artifact, ...],
) -> dict[str, Any]:
    return {
        "format": "edgeprune-export",
        "version": 1,
        "edgeprune": metadata.version("edgeprune"),
        "model": material.name,
        "target": {"name": target.name, "description": target.description},
        "metadata": {
            name: json.loads(text) if text[:1] in "[{" else text
            for name, text in material.metadata.items()
        },
        "calibration": {"images": settings.calibration, "sampler": settings.sampler}
        if any(artifact.precision == "int8" for artifact in artifacts)
        else None,
        "artifacts": [artifact.to_dict() for artifact in artifacts],
        "estimate": latency_estimate(material.captured, target, settings.batch or 1),
        "not_measured": [reason] if (reason := target.not_measured) else [],
        "notes": list(material.notes),
    }

"""What can be refused before an image is read: a mistake should cost seconds, not a training."""

import os
from collections.abc import Sequence
from pathlib import Path

from edgeprune.attribution.aggregation import Aggregate
from edgeprune.attribution.criterion import SampleCriterion, needs_images
from edgeprune.attribution.registry import find_criterion
from edgeprune.errors import ModelError, UsageError, WeightsError
from edgeprune.pipeline.export_settings import target_at
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.source import model_source
from edgeprune.targets import Target
from edgeprune_exporters import ExportOptions, check_options, find_exporter, read_formats


def check_asked(settings: CompressSettings) -> Target:
    """Return the target if everything that is asked for by name is there.

    Raises:
        UsageError: an unknown criterion, target or format.
        ModelError: an unknown model, or no file of a factory.
        WeightsError: no file of weights where one was said to be.
    """
    if problem := aggregate_problem(settings.criterion, settings.aggregate):
        raise UsageError(problem)
    target = target_at(settings.target, settings.precision)
    options = ExportOptions(max_drop=settings.max_drop)
    check_formats(settings.formats or target.formats, target, options)
    model_source(settings.model, num_classes=1, pretrained=settings.pretrained)
    place = settings.model.rpartition(":")[0]
    if place.endswith(".py") and not Path(place).is_file():
        raise ModelError(f"'{settings.model}': there is no file '{place}'")
    if settings.weights is not None and not settings.weights.is_file():
        raise WeightsError(f"no weights at '{settings.weights}': give a .safetensors or .pt file")
    return target


def looks_at_images(criterion: str) -> bool:
    """Say whether a criterion scores units by images."""
    return needs_images(find_criterion(criterion))


def aggregate_problem(criterion: str, aggregate: Aggregate) -> str | None:
    """Say why a criterion's attributions cannot be summed in this way, or None.

    Raises:
        UsageError: no such criterion.
    """
    if isinstance(find_criterion(criterion), SampleCriterion) or aggregate == "absolute":
        return None
    return (
        f"--aggregate {aggregate} sums the attributions of images, but '{criterion}' gives one "
        "score for all of them: leave it out"
    )


def align_note(settings: CompressSettings, target: Target) -> str | None:
    """Say that widths will not fit the target's kernels, or None."""
    asked = settings.align
    if asked is None or asked % target.align == 0:
        return None
    return (
        f"--align {asked}: kernels of '{target.name}' work in multiples of {target.align}, so that "
        "a cut model may be no faster than a wider one"
    )


def check_place(out: Path) -> None:
    """Refuse a place where a folder cannot appear in one rename.

    Raises:
        UsageError: it has no name, is a link or a mount, is not empty, or
            nothing can be written beside it.
    """
    if out.name in ("", ".."):
        raise UsageError(f"--out '{out}' names no folder of its own: give one, as 'slim'")
    if out.is_symlink() or out.is_mount():
        raise UsageError(f"--out '{out}' is a link or a mount: give a new folder inside it")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"'{out}' is not empty: choose another --out, or remove it")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"nothing can be written in '{above}': choose another --out")


def check_formats(formats: Sequence[str], target: Target, options: ExportOptions) -> None:
    """Refuse what no exporter could write for a target.

    Raises:
        UsageError: an unknown format or precision, one that the target cannot run, or
            an option that no format takes.
    """
    asked = read_formats(formats, target)
    for wanted in asked:
        find_exporter(wanted.format)
        if wanted.precision not in target.precisions:
            raise UsageError(
                f"target '{target.name}' cannot run {wanted.precision}: "
                f"give one of {', '.join(target.precisions)}"
            )
    check_options(options, asked)

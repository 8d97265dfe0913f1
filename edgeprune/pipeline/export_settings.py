"""What ``export`` is asked to do, checked before any work begins."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from edgeprune.attribution.samplers import Sampler
from edgeprune.errors import UsageError
from edgeprune.pipeline.settings import SAMPLERS
from edgeprune.pipeline.unit_settings import Subject
from edgeprune.targets import Target, load_target

if TYPE_CHECKING:
    from edgeprune_exporters import ExportOptions

CALIBRATION_IMAGES: Final = 300  # what NNCF itself takes at most, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What ``export`` is asked to do.

    Attributes:
        subject: the model and the images; of a bundle the slim model is meant, and a
            model may also be an ONNX file.
        target: name or TOML file of the device.
        formats: artifacts to write, as ``onnx`` or ``openvino:int8``; empty takes the target's.
        precision: of those that name none; None takes the target's.
        calibration: how many training images int8 is calibrated on.
        sampler: how these are chosen.
        batch, simplify, max_drop, dla_core, workspace_mb: as in ``ExportOptions``.
    """

    subject: Subject
    target: str = "cpu"
    formats: tuple[str, ...] = ()
    precision: str | None = None
    calibration: int = CALIBRATION_IMAGES
    sampler: Sampler = "random"
    batch: int | None = None
    simplify: bool = False
    max_drop: float | None = None
    dla_core: int | None = None
    workspace_mb: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no model can be exported with."""
        if self.calibration < 1:
            raise UsageError(f"--calibration {self.calibration} is too small: give 1 or more")
        if self.sampler not in SAMPLERS:
            raise UsageError(f"no sampler '{self.sampler}': choose one of {', '.join(SAMPLERS)}")

    @property
    def options(self) -> "ExportOptions":
        """What the exporters are asked for beyond format and precision."""
        from edgeprune_exporters import ExportOptions

        return ExportOptions(
            batch=self.batch,
            simplify=self.simplify,
            max_drop=self.max_drop,
            dla_core=self.dla_core,
            workspace_mb=self.workspace_mb,
        )


def target_at(name: str, precision: str | None) -> Target:
    """Return a target at the precision that is asked for.

    Raises:
        UsageError: no such target, or a precision that it cannot run.
    """
    target = load_target(name)
    if precision is None:
        return target
    if precision not in target.precisions:
        near = get_close_matches(precision, target.precisions, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UsageError(
            f"target '{target.name}' cannot run --precision {precision}{hint}: "
            f"give one of {', '.join(target.precisions)}"
        )
    return replace(target, precision=precision)

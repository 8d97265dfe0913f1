"""What a user may ask of an export beyond format and precision."""

from dataclasses import dataclass, fields

from edgeprune.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Every one is refused where no format that is written takes it.

    Attributes:
        batch: the only batch size the files take; None for any size.
        simplify: let onnxsim reduce the graph; kept only where it does, and parity holds.
        max_drop: points of accuracy on the validation images that int8 may cost.
        dla_core: which deep learning accelerator of a Jetson runs the engine.
        workspace_mb: memory in MiB that building an engine may use; None for the target's.
    """

    batch: int | None = None
    simplify: bool = False
    max_drop: float | None = None
    dla_core: int | None = None
    workspace_mb: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no format could do."""
        for name, least in (("batch", 1), ("max_drop", 0), ("dla_core", 0), ("workspace_mb", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value} is too small: give {least} or more")

    @property
    def given(self) -> frozenset[str]:
        """The names of the options that were asked for."""
        return frozenset(
            each.name for each in fields(self) if getattr(self, each.name) != each.default
        )

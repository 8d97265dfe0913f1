"""What an export hands out: files that one runtime loads, and their proof."""

from dataclasses import asdict, dataclass
from typing import Any

from edgeprune_exporters.parity import ParityProof


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An operator that stayed at a higher precision than the rest.

    Attributes:
        name: of the node in the graph.
        operator: its kind, as ``Softmax``.
        precision: what it runs in.
        reason: what was measured.
    """

    name: str
    operator: str
    precision: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The files of one format at one precision.

    Attributes:
        format: name of the exporter.
        runtime: what loads the files.
        precision: of the weights in the files, one of ``PRECISIONS``.
        files: names relative to the folder given to ``export``; the first is
            the one a runtime is pointed at.
        opset: version of the ONNX operator set, as read back from the file
            that was written or converted.
        proof: how far the runtime's logits are from the model's.
        kept: operators that stayed at a higher precision, and why.
        notes: what a user should know, one sentence each.
    """

    format: str
    runtime: str
    precision: str
    files: tuple[str, ...]
    opset: int
    proof: ParityProof
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the artifact as JSON values."""
        return {
            "format": self.format,
            "runtime": self.runtime,
            "precision": self.precision,
            "files": list(self.files),
            "opset": self.opset,
            "proof": self.proof.to_dict(),
            "kept": [asdict(each) for each in self.kept],
            "notes": list(self.notes),
        }

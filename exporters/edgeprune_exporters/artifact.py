"""What an export hands out: files that one runtime loads, and their proof."""

from dataclasses import dataclass
from typing import Any

from edgeprune_exporters.parity import ParityProof


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The files of one format.

    Attributes:
        format: name of the exporter.
        runtime: what loads the files.
        precision: of the weights in the files.
        files: names relative to the folder given to ``export``; the first is
            the one a runtime is pointed at.
        opset: version of the ONNX operator set, as read back from the file
            that was written or converted.
        proof: how far the runtime's logits are from torch's.
    """

    format: str
    runtime: str
    precision: str
    files: tuple[str, ...]
    opset: int
    proof: ParityProof

    def to_dict(self) -> dict[str, Any]:
        """Return the artifact as JSON values."""
        return {
            "format": self.format,
            "runtime": self.runtime,
            "precision": self.precision,
            "files": list(self.files),
            "opset": self.opset,
            "proof": self.proof.to_dict(),
        }

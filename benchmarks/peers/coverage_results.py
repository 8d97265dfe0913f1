"""What the journals say: one row per family, for each tool."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeprune.verify import TOLERANCE as CUT_TOLERANCE
from edgeprune_exporters.parity import TOLERANCE as PARITY_TOLERANCE

Facts = Mapping[str, Any]
CHANGED: Final = 1e-3  # relative; a cut that changes less has tested nothing
LARGE: Final = 20e6  # bytes of weights from which memory is told as multiple of them


@dataclass(frozen=True, kw_only=True)
class Result:
    """One family with one tool.

    Attributes:
        facts: what the worker noted.
    """

    facts: Facts

    @property
    def family(self) -> str:
        """The family's name."""
        return str(self.facts["family"])

    @property
    def params(self) -> int:
        """Parameters of the dense model; 0 if it was not even built."""
        return int(self.facts.get("params", 0))

    def error(self, stage: str) -> str | None:
        """Say why a stage failed or was not reached, or None if it ended well."""
        stages = self.facts["stages"]
        if stage in stages:
            return stages[stage]["error"]  # type: ignore[no-any-return]
        return "not reached"

    def first_error(self) -> str | None:
        """Say which stage failed first, and why; None if none did."""
        for stage, entry in self.facts["stages"].items():
            if entry["error"]:
                return f"{stage}: {entry['error']}"
        return None

    def seconds(self, *stages: str) -> float:
        """Return the seconds of several stages together."""
        return sum(float(self.facts["stages"].get(stage, {}).get("seconds", 0)) for stage in stages)

    @property
    def shrank(self) -> bool:
        """Whether the step ran and there are fewer parameters than before."""
        return self.error("cut") is None and self.facts.get("kept", self.params) < self.params

    @property
    def runs(self) -> bool:
        """Whether the smaller model runs and gives logits of the right shape."""
        proven = "proof" if self.facts["tool"] == "edgeprune" else "forward"
        return self.shrank and self.error(proven) is None

    @property
    def counted(self) -> bool:
        """Whether the parameters are those that the plan predicts."""
        return bool(self.facts.get("kept") == self.facts.get("predicted"))

    @property
    def proven(self) -> bool:
        """Whether the cut model equals the masked one, for every plan, and not the dense one."""
        differences = [self.facts.get(key) for key in ("max_rel", "macs_max_rel")]
        differences += self.kinds.values()
        close = all(value is not None and value <= CUT_TOLERANCE for value in differences)
        return close and self.facts["changed"] > CHANGED

    @property
    def kinds(self) -> Mapping[str, float | None]:
        """The proof for each kind of group alone, or None where it failed."""
        kinds: Mapping[str, float | None] = self.facts.get("kinds_max_rel", {})
        return kinds

    @property
    def worst_kind(self) -> float | None:
        """The largest difference over the kinds, or None if one of them failed."""
        found = list(self.kinds.values())
        known = [value for value in found if value is not None]
        return max(known) if known and len(known) == len(found) else None

    def parity(self, runtime: str) -> float | None:
        """Return how far a runtime is from torch, relative, or None if it did not run."""
        proof = self.facts.get(runtime)
        return None if proof is None or proof["max_rel"] is None else float(proof["max_rel"])

    def equal_in(self, runtime: str) -> bool:
        """Whether a runtime computes what torch computes."""
        parity = self.parity(runtime)
        return parity is not None and parity <= PARITY_TOLERANCE

    @property
    def trains(self) -> bool:
        """Whether one step of training ran, with finite gradients."""
        return self.error("train") is None

    @property
    def succeeds(self) -> bool:
        """What counts as a family that works.

        For the peer: smaller, running, logits of the same shape, ONNX equal to torch.
        For us also: proven against the masked model at both budgets and for each
        kind alone, counted as predicted, equal in OpenVINO, trainable.
        """
        fair = self.runs and self.equal_in("onnx")
        if self.facts["tool"] != "edgeprune":
            return fair
        return fair and self.proven and self.counted and self.equal_in("openvino") and self.trains

    @property
    def share(self) -> float | None:
        """Parameters kept where every channel axis is halved once, as a share."""
        key = "equal" if self.facts["tool"] == "edgeprune" else "kept"
        return self.facts[key] / self.params if self.params and key in self.facts else None

    @property
    def memory(self) -> str:
        """Peak memory of analysis and cut: as multiple of the weights where they are large."""
        if "peak_mib" not in self.facts:
            return "–"
        if 4 * self.params < LARGE:
            return f"{self.facts['peak_mib']:.0f} MiB"
        return f"{self.facts['peak_ratio']:.1f} ×"

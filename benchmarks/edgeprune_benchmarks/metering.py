"""Read a device's energy counter around the blocks of one runner.

Asked of each runner apart, because a device's counters start with the process that
reads them; the rest is read once for both. Invariant: where the device does not
tell, nothing but one question is spent on it.
"""

from collections.abc import Callable
from time import sleep
from typing import Final

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.energy import LEAST_BLOCKS, Reading, energy_of, reading
from edgeprune_benchmarks.measurement import Energy, MeasureSettings
from edgeprune_benchmarks.process import Answer, RunnerProcess

REST: Final = 1.0  # seconds: counters and sensors move in steps of up to 0.1 s

Rest = tuple[Reading, Reading]


class Meter:
    """What the blocks of one runner take; ``reason`` says why that is not known."""

    def __init__(self, runner: RunnerProcess, settings: MeasureSettings) -> None:
        """Ask whether the device tells, unless the blocks are too short to count anything."""
        self._runner, self._timeout = runner, settings.timeout
        self._pairs: list[tuple[Reading, Reading]] = []
        self._inferences = 0
        self.reason: str | None = None
        planned = settings.blocks * settings.block_seconds
        if planned < LEAST_BLOCKS:
            asked = f"{settings.blocks} blocks of {settings.block_seconds:g} s"
            self.reason = f"{asked} are too short: {LEAST_BLOCKS:g} s in all are needed"
        elif (first := self._read()).joules is None:
            self.reason = first.reason or "the device has no energy counter"

    def rest(self) -> Rest | None:
        """Wait while nothing is asked of the device, and return what that took."""
        if self.reason is not None:
            return None
        before = self._read()
        sleep(REST)
        return before, self._read()

    def block(self, run: Callable[[], Answer]) -> Answer:
        """Run a block between two readings."""
        if self.reason is not None:
            return run()
        before = self._read()
        answer = run()
        self._pairs.append((before, self._read()))
        self._inferences += len(answer["ns"]) + int(answer.get("settled", 0))
        return answer

    def energy(self, rest: Rest | None) -> tuple[Energy | None, str | None]:
        """Return what the blocks took, and what that covers or why it is not known."""
        if self.reason is not None or rest is None:
            return None, self.reason
        return energy_of(rest, self._pairs, self._inferences)

    def _read(self) -> Reading:
        try:
            return reading(self._runner.ask("energy", self._timeout))
        except ValueError as error:
            name = self._runner.name
            raise MeasureError(f"{name}: its energy cannot be understood: {error}") from error

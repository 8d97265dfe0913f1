"""The device runner with a fault planted: artifacts named ``slowed`` take 5 % longer.

After each inference of such an artifact it spins for a twentieth of the time that
the inference took. Everything else is the runner that is shipped.
"""

import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

SHARE: Final = 0.05
RUNNER: Final = Path(__file__).parent / "edgeprune_benchmarks" / "device_runner.py"


def load_runner() -> ModuleType:
    """Import the shipped file as it is."""
    found = importlib.util.spec_from_file_location("device_runner", RUNNER)
    if found is None or found.loader is None:
        raise SystemExit(f"there is no device runner at {RUNNER}")
    module = importlib.util.module_from_spec(found)
    sys.modules["device_runner"] = module
    found.loader.exec_module(module)
    return module


def plant(runner: ModuleType) -> None:
    """Let the runner slow down the artifacts that are named so."""
    ordinary: Any = runner.Runner

    class Slowed(ordinary):  # type: ignore[misc]  # its module is loaded by path
        def load(self, artifact: str, **words: object) -> dict[str, Any]:
            report: dict[str, Any] = super().load(artifact, **words)
            if Path(artifact).stem == "slowed":
                model: Any = vars(self)["model"]
                self.model = replace(model, infer=_slower(model.infer))
            return report

    vars(runner)["Runner"] = Slowed


def _slower(infer: Any) -> Any:  # noqa: ANN401  the runner's own callable
    clock = time.perf_counter_ns

    def slowed(images: np.ndarray) -> np.ndarray:
        start = clock()
        found: np.ndarray = infer(images)
        end = clock()
        until = end + int((end - start) * SHARE)
        while clock() < until:
            pass
        return found

    return slowed


def main() -> int:
    """Run the shipped runner with the fault planted."""
    shipped = load_runner()
    plant(shipped)
    return int(shipped.main())


if __name__ == "__main__":
    sys.exit(main())

"""Do others see the same? Their own timing of the same file, and their own memory figure.

Timing: OpenVINO's ``benchmark_app``, and the span that ONNX Runtime's profiler
records around each run. The two sides take turns on the same core. Memory:
``/usr/bin/time -v``, started from a shell, of a bare script that does what the
runner does with the artifact and nothing else.
"""

import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.harness import compare
from edgeprune_benchmarks.measurement import Comparison, MeasureSettings, Subject
from edgeprune_benchmarks.statistics import latency
from trust_case import RUNTIMES, Case

TURNS: Final = 4
LIMITS: Final = {"median": 0.03, "memory": 0.05}
TIME: Final = "/usr/bin/time"

ORT_SCRIPT: Final = """
import json, os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime as ort
path, seconds, shape, prefix = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.enable_profiling = bool(prefix)
options.profile_file_prefix = prefix
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
import time
feed = {session.get_inputs()[0].name: np.zeros(shape, np.float32)}
end = time.perf_counter() + seconds
runs = 0
while runs < 10 or time.perf_counter() < end:
    session.run(None, feed)
    runs += 1
if prefix:
    print(session.end_profiling())
"""
OV_SCRIPT: Final = """
import json, sys, time
sys.modules["openvino_telemetry"] = None
import numpy as np, openvino as ov
path, seconds, shape = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])
core = ov.Core()
graph = core.read_model(path)
graph.reshape(shape)
hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
         "INFERENCE_NUM_THREADS": 1}
request = core.compile_model(graph, "CPU", hints).create_infer_request()
images = np.zeros(shape, np.float32)
end = time.perf_counter() + seconds
runs = 0
while runs < 10 or time.perf_counter() < end:
    request.infer([images], share_inputs=True, share_outputs=True)
    runs += 1
"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One figure by two instruments."""

    what: str
    peer: str
    ours: float
    theirs: float
    unit: str
    limit: float  # largest relative difference that counts as agreement

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    def row(self) -> str:
        """Return the row of the table."""
        agrees = "yes" if abs(self.ratio - 1) <= self.limit else "**no**"
        figures = f"{self.ours:.4g} {self.unit} | {self.theirs:.4g} {self.unit}"
        bound = f"{100 * self.limit:.0f} %"
        return f"| {self.what} | {self.peer} | {figures} | {self.ratio:.3f} | {bound} | {agrees} |"


def agreements(case: Case, settings: MeasureSettings, seconds: float) -> tuple[Agreement, ...]:
    """Measure every artifact by the harness and by its peer, in turns."""
    peers: dict[str, tuple[str, Callable[[Subject, Case, MeasureSettings, float], float]]] = {
        "openvino": ("benchmark_app", _benchmark_app),
        "onnxruntime": ("its own profiler", _ort_profiler),
    }
    found: list[Agreement] = []
    for runtime in RUNTIMES:
        subject = case.subject(runtime)
        peer, measure = peers[runtime]
        ours: list[float] = []
        theirs: list[float] = []
        peaks: list[float] = []
        for _ in range(TURNS):
            comparison = compare(subject, subject, case.images, settings)
            ours.append(_median(comparison))
            theirs.append(measure(subject, case, settings, seconds))
            peaks.append(_peak(comparison))
        medians = (statistics.median(ours), statistics.median(theirs))
        found.append(
            Agreement(
                what=f"median latency, {case.network} in {runtime}",
                peer=peer,
                ours=medians[0],
                theirs=medians[1],
                unit="ms",
                limit=LIMITS["median"],
            )
        )
        found.append(_memory(case, runtime, max(peaks)))
    return tuple(found)


def _median(comparison: Comparison) -> float:
    """Return the median of both sides, which are the same artifact, in ms."""
    sides = (comparison.dense, comparison.slim)
    return statistics.mean(latency(side.blocks).median_ms for side in sides)


def _peak(comparison: Comparison) -> float:
    peaks = [side.peak_bytes for side in (comparison.dense, comparison.slim)]
    known = [peak for peak in peaks if peak is not None]
    if not known:
        raise MeasureError("the runner could not read its peak memory here")
    return statistics.mean(known) / 1e6


def _pinned(settings: MeasureSettings, command: list[str]) -> list[str]:
    cpus = ",".join(map(str, settings.cpus or ()))
    return ["taskset", "-c", cpus, *command] if cpus else command


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasureError(f"{shlex.join(command[:4])} … failed: {done.stderr[-500:]}")
    return done.stdout + done.stderr


def _benchmark_app(
    subject: Subject, case: Case, settings: MeasureSettings, seconds: float
) -> float:
    """Return the median that OpenVINO's own tool reports, in ms."""
    tool = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))
    if tool is None:
        raise MeasureError("benchmark_app is not installed beside this Python")
    shape = "[" + ",".join(map(str, case.images.shape)) + "]"
    words = ["-m", str(subject.artifact), "-d", "CPU", "-api", "sync", "-hint", "none"]
    words += ["-nstreams", "1", "-nthreads", "1", "-infer_precision", "f32", "-pin", "NO"]
    said = _run(_pinned(settings, [tool, *words, "-shape", shape, "-t", f"{seconds:g}"]))
    found = re.search(r"Median:\s+([\d.]+) ms", said)
    if found is None:
        raise MeasureError(f"benchmark_app reports no median: {said[-300:]}")
    return float(found[1])


def _ort_profiler(subject: Subject, case: Case, settings: MeasureSettings, seconds: float) -> float:
    """Return the median span of a run as ONNX Runtime's profiler records it, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        shape = json.dumps(case.images.shape)
        words = [str(subject.artifact), f"{seconds:g}", shape, f"{folder}/profile"]
        script = [sys.executable, "-c", ORT_SCRIPT, *words]
        path = _run(_pinned(settings, script)).strip().splitlines()[-1]
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    spans = [each["dur"] for each in events if each.get("name") == "model_run"]
    return float(statistics.median(spans[len(spans) // 5 :])) / 1e3  # the first fifth warms up


def _memory(case: Case, runtime: str, ours: float) -> Agreement:
    script = {"openvino": OV_SCRIPT, "onnxruntime": ORT_SCRIPT}[runtime]
    words = [str(case.subject(runtime).artifact), "1", json.dumps(case.images.shape), ""]
    bare = shlex.join([TIME, "-v", sys.executable, "-c", script, *words])
    said = _run(["/bin/sh", "-c", bare])
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", said)
    if found is None:
        raise MeasureError(f"{TIME} -v reports no peak: {said[-300:]}")
    return Agreement(
        what=f"peak memory, {case.network} in {runtime}",
        peer="/usr/bin/time -v of a bare script",
        ours=ours,
        theirs=int(found[1]) * 1024 / 1e6,
        unit="MB",
        limit=LIMITS["memory"],
    )

"""The runner's peak memory is the artifact's: what a bare script needs, and little more."""

import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune_benchmarks.process import RunnerProcess

from .conftest import SIZE

PATIENCE = 120.0
WIDTH, LAYERS = 2048, 4  # 16 MiB of weights in each of the layers
START = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None
import numpy as np
images = np.zeros((1, 3, 16, 16), np.float32)
"""
BARE = {
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for _ in range(10):
    session.run(None, {"image": images})
""",
    "openvino": """
import openvino
core = openvino.Core()
hints = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
graph = core.read_model(sys.argv[1])
graph.reshape([1, 3, 16, 16])
hints["INFERENCE_PRECISION_HINT"] = "f32"
request = core.compile_model(graph, "CPU", hints).create_infer_request()
for _ in range(10):
    request.infer([images])
""",
}
END = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network of 64 MiB as ONNX and as IR."""
    from edgeprune_exporters.runtimes import import_openvino

    folder, rng = tmp_path_factory.mktemp("big"), np.random.default_rng(0)
    sizes = [(3, WIDTH), *[(WIDTH, WIDTH)] * LAYERS, (WIDTH, 4)]
    weights = [rng.normal(0, 0.02, size).astype(np.float32) for size in sizes]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["x0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"]) for k in range(len(sizes))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    last = helper.make_tensor_value_info(f"x{len(sizes)}", TensorProto.FLOAT, [1, 4])
    stored = [numpy_helper.from_array(value, f"w{k}") for k, value in enumerate(weights)]
    graph = helper.make_graph(nodes, "big", [image], [last], stored)
    opset = [helper.make_opsetid("", 18)]
    path = folder / "big.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(path), folder / "big.xml", False)
    return {"onnxruntime": path, "openvino": folder / "big.xml"}


def bare(backend: str, path: Path) -> int:
    command = [sys.executable, "-c", START + BARE[backend] + END, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return int(done.stdout) * 1024


def measured(path: Path, inputs: Path) -> int:
    np.save(inputs, np.zeros((1, 3, SIZE, SIZE), np.float32))
    with RunnerProcess("big") as process:
        process.ask("load", PATIENCE, artifact=str(path), batch=1)
        process.ask("warmup", PATIENCE, inputs=str(inputs), seconds=0.01, limit=0.1)
        process.ask("block", PATIENCE, seconds=0, iterations=10)
        return int(process.ask("memory", PATIENCE)["peak_bytes"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_runners_peak_is_within_5_per_cent_of_a_bare_scripts(
    backend: str, big: dict[str, Path], tmp_path: Path
) -> None:
    path = big[backend]
    wanted = median(bare(backend, path) for _ in range(3))
    found = median(measured(path, tmp_path / "in.npy") for _ in range(3))
    assert wanted > 64 << 20
    assert found == pytest.approx(wanted, rel=0.05)

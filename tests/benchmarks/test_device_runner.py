import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.process import RUNNER, RunnerProcess

from .conftest import SIZE, Tiny, images, write_network

PATIENCE = 60.0


def loaded(path: Path, **words: object) -> dict[str, object]:
    with RunnerProcess("tiny") as runner:
        return dict(runner.ask("load", PATIENCE, artifact=str(path), **words))


def store(path: Path, count: int) -> str:
    np.save(path, images(count))
    return str(path)


def outputs(path: Path, folder: Path, count: int, **words: object) -> np.ndarray:
    target = folder / "out.npy"
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(path), **words)
        inputs = store(folder / "in.npy", count)
        runner.ask("predict", PATIENCE, inputs=inputs, outputs=str(target), batch=4)
    return np.asarray(np.load(target))


def test_the_runner_is_python_3_8_and_imports_only_numpy_and_the_standard_library() -> None:
    tree = ast.parse(RUNNER.read_text(), feature_version=(3, 8))
    found = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    assert found - sys.stdlib_module_names == {"numpy"}


def test_both_runtimes_predict_what_the_network_computes(tiny: Tiny, tmp_path: Path) -> None:
    for path in (tiny.onnx, tiny.ir):
        found = outputs(path, tmp_path, 7)
        np.testing.assert_allclose(found, tiny.expected(images(7)), rtol=1e-4, atol=1e-6)


def test_a_torch_program_is_loaded_with_the_threads_asked_for(tmp_path: Path) -> None:
    import torch

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    batch = {0: torch.export.Dim.DYNAMIC}
    sample = (torch.zeros(2, 3, SIZE, SIZE),)
    torch.export.save(
        torch.export.export(Mean(), sample, dynamic_shapes=(batch,)), tmp_path / "mean.pt2"
    )
    found = outputs(tmp_path / "mean.pt2", tmp_path, 5)
    np.testing.assert_allclose(found, images(5).mean(axis=(2, 3)), atol=1e-6)
    answer = loaded(tmp_path / "mean.pt2", threads=2)
    assert answer["threads"] == 2
    assert answer["shape"] == [None, 3, SIZE, SIZE]


def test_an_artifact_of_fixed_batch_predicts_a_number_that_does_not_divide(
    network: Callable[..., Path], tiny: Tiny, tmp_path: Path
) -> None:
    found = outputs(network(batch=2), tmp_path, 5)
    np.testing.assert_allclose(found, tiny.expected(images(5)), rtol=1e-4, atol=1e-6)


def test_an_artifact_of_fixed_batch_is_not_timed_at_another(
    network: Callable[..., Path],
) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(network(batch=2)))
        with pytest.raises(MeasureError, match="takes batches of 2, not of 1"):
            runner.ask("warmup", PATIENCE, batch=1)


def test_threads_and_cpus_are_set_and_read_back(tiny: Tiny) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for path in (tiny.onnx, tiny.ir):
        answer = loaded(path, threads=2)
        assert answer["threads"] == 2
        assert len(answer["cpus"]) == min(2, len(allowed))  # type: ignore[arg-type]
        assert loaded(path, cpus=allowed[:1])["cpus"] == allowed[:1]


def test_one_thread_is_kept_to_where_more_cpus_are_allowed(tiny: Tiny) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for path in (tiny.onnx, tiny.ir):
        assert loaded(path, threads=1, cpus=allowed)["threads"] == 1


def test_cpus_that_do_not_exist_are_refused_with_those_that_do(tiny: Tiny) -> None:
    with pytest.raises(MeasureError, match=r"CPUs \[4000\] cannot be used here, these can: \["):
        loaded(tiny.onnx, cpus=[4000])


def test_openvino_runs_in_f32_unless_told_otherwise(tiny: Tiny) -> None:
    assert loaded(tiny.ir)["precision"] == "f32"
    with RunnerProcess("tiny") as runner:
        flags = runner.ask("info", PATIENCE)["machine"]["flags"]
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        assert loaded(tiny.ir, precision="bf16")["precision"] == "bf16"


def test_weights_stored_in_half_precision_are_no_precision_to_run_in(
    tiny: Tiny, tmp_path: Path
) -> None:
    from edgeprune_exporters.runtimes import import_openvino

    openvino = import_openvino()
    half = tmp_path / "half.xml"
    source = write_network(tmp_path / "convolutions.onnx", tiny.weight, layers=2)
    openvino.save_model(openvino.Core().read_model(source), half, compress_to_fp16=True)
    assert loaded(half)["precision"] == "f32"


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float16, "f16"), (np.int8, "i8"), (np.float32, "f32")]
)
def test_the_precision_of_an_onnx_graph_is_read_from_its_weights(
    network: Callable[..., Path], dtype: type, name: str
) -> None:
    path = network(weight=np.ones((3, 4), dtype))
    assert loaded(path)["precision"] == name


def test_a_weight_beside_its_graph_has_its_precision_read_too(tmp_path: Path, tiny: Tiny) -> None:
    model = onnx.load(tiny.onnx)
    path = tmp_path / "outside.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="outside.onnx.data", size_threshold=0
    )
    assert loaded(path)["precision"] == "f32"


def test_openvino_is_compiled_for_the_batch_that_is_timed(tiny: Tiny) -> None:
    assert loaded(tiny.ir)["shape"] == [None, 3, SIZE, SIZE]
    assert loaded(tiny.ir, batch=3)["shape"] == [3, 3, SIZE, SIZE]


def test_a_block_takes_at_least_the_time_and_the_number_asked_for(
    tiny: Tiny, tmp_path: Path
) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        inputs = store(tmp_path / "in.npy", 3)
        warm = runner.ask("warmup", PATIENCE, inputs=inputs, seconds=0.01)
        short = runner.ask("block", PATIENCE, seconds=0, iterations=7)["ns"]
        long = runner.ask("block", PATIENCE, seconds=0.1, iterations=1)["ns"]
    assert len(short) == 7
    assert len(long) > 7
    assert all(isinstance(ns, int) and ns > 0 for ns in [*short, *long, warm["first_ns"]])


def test_a_warm_up_that_never_settles_says_so(tiny: Tiny) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        answer = runner.ask("warmup", PATIENCE, seconds=0.001, limit=0.0)
    assert answer["steady"] is False


def test_peak_memory_is_the_childs_own_while_the_parent_is_fat(tiny: Tiny) -> None:
    ballast = np.ones(500_000_000, np.uint8)
    with RunnerProcess("tiny") as runner:
        before = runner.ask("memory", PATIENCE)["peak_bytes"]
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        after = runner.ask("memory", PATIENCE)["peak_bytes"]
    assert 5e6 < before < after < 300e6 < ballast.nbytes


def test_peak_memory_grows_by_what_the_child_allocates(tiny: Tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((40_000, 3, SIZE, SIZE), np.float32))
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        before = runner.ask("memory", PATIENCE)["peak_bytes"]
        runner.ask("warmup", PATIENCE, inputs=str(tmp_path / "many.npy"), seconds=0.01)
        after = runner.ask("memory", PATIENCE)["peak_bytes"]
    assert after - before > 100e6


@pytest.mark.parametrize(
    ("do", "words", "message"),
    [
        ("dance", {}, "there is no command 'dance'; there are load, warmup"),
        ("load", {"artifact": "nowhere.onnx"}, "there is no file nowhere.onnx"),
        ("load", {"artifact": str(RUNNER)}, "no back end for device_runner.py: there are onnx"),
        ("load", {"artifact": str(RUNNER), "backend": "tflite"}, "no back end for tflite"),
        (
            "load",
            {"artifact": str(RUNNER), "backend": "tensorrt"},
            "no run.py beside|JetPack's python3-libnvinfer",
        ),
        ("load", {"artifact": str(RUNNER), "backend": "onnxruntime"}, "is no ONNX file"),
        ("block", {"seconds": 1, "iterations": 1}, "send 'load' first"),
        ("block", {"hours": 1}, "unexpected keyword argument 'hours'"),
    ],
)
def test_what_cannot_be_done_is_answered_and_the_runner_lives_on(
    do: str, words: dict[str, object], message: str
) -> None:
    with RunnerProcess("tiny") as runner:
        with pytest.raises(MeasureError, match=message):
            runner.ask(do, PATIENCE, **words)
        assert runner.ask("memory", PATIENCE)["ok"]


def test_a_process_loads_one_artifact_only(tiny: Tiny) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        with pytest.raises(MeasureError, match="has loaded an artifact already"):
            runner.ask("load", PATIENCE, artifact=str(tiny.onnx))


def test_inputs_of_another_type_are_named(tiny: Tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((1, 3, SIZE, SIZE), np.uint8))
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        with pytest.raises(MeasureError, match=r"uint8 of shape \(1, 3, 16, 16\); float32"):
            runner.ask("warmup", PATIENCE, inputs=str(tmp_path / "in.npy"))


def test_what_a_runtime_prints_does_not_reach_the_protocol(tmp_path: Path) -> None:
    chatty = tmp_path / "chatty.py"
    chatty.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(RUNNER.parent)!r})\n"
        "import device_runner as r\n"
        "quiet = r.memory\n"
        "def memory(gpu):\n"
        "    print('from python', flush=True)\n"
        "    os.system('echo from a child')\n"
        "    return quiet(gpu)\n"
        "r.memory = memory\n"
        "sys.exit(r.main())\n"
    )
    with RunnerProcess("chatty", [sys.executable, str(chatty), "serve"]) as runner:
        assert runner.ask("memory", PATIENCE)["peak_bytes"] > 0


def test_quantised_pairs_are_named_beside_the_float_weights(tmp_path: Path) -> None:
    scale = helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [0.1])
    zero = helper.make_tensor("zero", onnx.TensorProto.INT8, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4])
        for name in ("image", "y")
    ]
    graph = helper.make_graph(nodes, "pair", ends[:1], ends[1:], [scale, zero])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "q.onnx")
    assert loaded(tmp_path / "q.onnx")["precision"] == "f32+i8"


def test_openvino_is_imported_without_what_reports_home() -> None:
    code = (
        "import runpy, sys; names = runpy.run_path(sys.argv[1], run_name='runner'); "
        "names['runtime']('openvino'); print(sys.modules['openvino_telemetry'])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, str(RUNNER)], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "None"


def test_what_was_set_is_read_back_from_the_runtime(tiny: Tiny) -> None:
    session = loaded(tiny.onnx)
    assert session["spinning"] is True
    assert session["properties"] == {
        "providers": "CPUExecutionProvider",
        "graph_optimization_level": "ORT_ENABLE_ALL",
    }
    compiled = loaded(tiny.ir, precision="f32")
    assert compiled["spinning"] is None
    assert compiled["properties"] == {
        **{"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "PERFORMANCE"},
        **{"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "SCHEDULING_CORE_TYPE": "ANY_CORE"},
        **{"ENABLE_CPU_PINNING": "True", "ENABLE_HYPER_THREADING": "False"},
    }
    assert session["device"] == compiled["device"] == "cpu"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"device": "gpu"}, "there is no device 'gpu': say cpu, cuda:0"),
        ({"device": "cuda:x"}, "there is no device 'cuda:x'"),
        ({"device": "cuda:0"}, "cannot use a GPU: it has .*CPUExecutionProvider"),
        ({"device": "cuda:0", "backend": "openvino"}, "OpenVINO is used on the CPU only"),
        ({"cuda_graph": True}, "a CUDA graph needs the back end torch and a GPU"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(
    tiny: Tiny, words: dict[str, object], message: str
) -> None:
    import onnxruntime

    if "it has" in message and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    with pytest.raises(MeasureError, match=message):
        loaded(tiny.onnx, **words)


def test_a_warm_up_takes_ten_inferences_and_a_second_at_least(tiny: Tiny) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        begin = time.monotonic()
        answer = runner.ask("warmup", PATIENCE, seconds=0.1, limit=30.0)
        spent = time.monotonic() - begin
        few = runner.ask("warmup", PATIENCE, seconds=0.0, limit=3.0, idle=0.11)
    assert answer["steady"]
    assert 1.0 <= spent < 30.0
    assert len(answer["warmup_ns"]) >= 9
    assert len(few["warmup_ns"]) >= 2  # blocks of five inferences


def test_a_limit_ends_a_warm_up_before_its_second_is_over(tiny: Tiny) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        begin = time.monotonic()
        answer = runner.ask("warmup", PATIENCE, seconds=0.02, limit=0.2)
        assert 0.2 <= time.monotonic() - begin < 0.8
    last = answer["warmup_ns"][-2:]
    assert answer["steady"] is (abs(last[1] / last[0] - 1) <= 0.02)


def test_an_idle_block_rests_before_every_inference_and_counts_the_rest_as_its_time(
    tiny: Tiny,
) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        runner.ask("warmup", PATIENCE, seconds=0.01, limit=0.1)
        begin = time.monotonic()
        few = runner.ask("block", PATIENCE, seconds=0.0, iterations=4, idle=0.05)
        spent = time.monotonic() - begin
        rests = runner.ask("block", PATIENCE, seconds=0.3, iterations=1, idle=0.1)
        busy = runner.ask("block", PATIENCE, seconds=0.0, iterations=4)
    assert len(few["ns"]) == 4
    assert few["settled"] == rests["settled"] == 0 < busy["settled"]
    assert spent >= 0.2
    assert sum(few["ns"]) < 0.1e9  # the rest is not in the times
    assert len(rests["ns"]) in (2, 3)


def test_energy_is_answered_with_its_source_or_the_reason(tiny: Tiny) -> None:
    with RunnerProcess("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=str(tiny.onnx))
        answer = runner.ask("energy", PATIENCE)
    assert (answer["source"] is None) == (answer["joules"] is None)
    assert answer["reason"]

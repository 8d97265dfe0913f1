"""torch programs in the device runner: on the CPU, on a GPU, and on a CUDA that records calls."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.errors import MeasureError
from edgeprune_benchmarks import device_runner as runner
from edgeprune_benchmarks.process import RunnerProcess

from .conftest import SIZE, images

PATIENCE = 120.0


class Small(torch.nn.Module):
    """A convolution with statistics, a constant made in the graph, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(SIZE, dtype=x.dtype, device=x.device)
        return self.head(self.norm(self.stem(x * (1 + steps))).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def program(module: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "small.pt2"
    batch = ({0: torch.export.Dim.DYNAMIC},)
    sample = (torch.zeros(2, 3, SIZE, SIZE),)
    torch.export.save(torch.export.export(module, sample, dynamic_shapes=batch), path)
    return path


def expected(module: torch.nn.Module, batch: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(module(torch.from_numpy(batch)).numpy())


# ------------------------------------------------------------------ a CUDA that records calls


class Recording(TorchDispatchMode):
    """Keep every operator that is called, with its arguments and its result."""

    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class Graph:
    """Replays what was recorded, on the very tensors of the recording."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if isinstance(result, torch.Tensor) and again.data_ptr() != result.data_ptr():
                result.copy_(again)


class Cuda:
    """What the runner uses of torch.cuda, on the CPU; like it, a capture must be warmed up."""

    CUDAGraph = Graph

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[Graph] = []
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing
                self.at: int | None = None

            def record(self) -> None:
                self.at = time.perf_counter_ns()

            def elapsed_time(self, other: "Event") -> float:
                assert self.at is not None
                assert other.at is not None
                return (other.at - self.at) / 1e6

        class Stream:
            def wait_stream(self, other: "Stream") -> None:
                cuda.log.append("wait")

        self.Event, self.Stream = Event, Stream
        self.main = Stream()

    def current_stream(self) -> Any:
        return self.main

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        assert stream is not self.main
        self.log.append("aside")
        yield

    @contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        assert self.log[-3:] == ["wait", "aside", "wait"]
        self.graphs.append(graph)
        with Recording(graph.calls):
            yield


@pytest.mark.parametrize("capture", [False, True])
def test_inference_on_a_gpu_computes_what_the_module_does(
    module: torch.nn.Module, capture: bool
) -> None:
    cuda = Cuda()
    inference = runner.TorchInference(torch, module, "cpu", cuda, capture)
    first, second, three = images(2), images(2, seed=1), images(3, seed=2)
    results = [inference.infer(batch) for batch in (first, second, three, first)]
    for batch, found in zip((first, second, three, first), results, strict=True):
        np.testing.assert_allclose(found, expected(module, batch), rtol=1e-5, atol=1e-6)
    assert [graph.replays for graph in cuda.graphs] == ([3, 1] if capture else [])


def test_the_time_between_two_events_is_that_of_the_last_inference(
    module: torch.nn.Module,
) -> None:
    pauses = iter([0.05, 0.0])

    def slow(source: torch.Tensor) -> torch.Tensor:
        time.sleep(next(pauses))
        return torch.as_tensor(module(source))

    inference = runner.TorchInference(torch, slow, "cpu", Cuda())
    inference.infer(images(1))
    assert inference.compute_ns() >= 50e6
    inference.infer(images(1))
    assert 0 < inference.compute_ns() < 50e6


def test_layers_on_a_gpu_are_timed_by_events(program: Path) -> None:
    module = torch.export.load(program).module()
    inference = runner.TorchInference(torch, module, "cpu", Cuda())
    told = inference.profile(images(2), 3)
    assert [layer["type"] for layer in told.layers if layer["origins"][1:]] == [
        *("aten.conv2d.default", "aten.batch_norm.default", "aten.linear.default")
    ]
    assert all(layer["ns"] > 0 for layer in told.layers)
    assert len(told.total_ns) == 3


# ------------------------------------------------------------------ the real one


def test_a_program_is_refused_a_gpu_that_torch_does_not_see(program: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    seen = r"torch cannot use a GPU here: torch\.cuda\.is_available\(\) is false \(torch \d"
    with RunnerProcess("small") as process, pytest.raises(MeasureError, match=seen):
        process.ask("load", PATIENCE, artifact=str(program), device="cuda:0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("capture", [False, True])
def test_a_program_runs_on_a_gpu_and_tells_how_long_it_computed(
    module: torch.nn.Module, program: Path, tmp_path: Path, capture: bool
) -> None:
    np.save(tmp_path / "in.npy", images(6))
    words = {"inputs": str(tmp_path / "in.npy"), "batch": 2}
    with RunnerProcess("small") as process:
        answer = process.ask(
            *("load", PATIENCE), artifact=str(program), device="cuda:0", cuda_graph=capture
        )
        process.ask("warmup", PATIENCE, seconds=0.05, limit=1.0, **words)
        times = process.ask("block", PATIENCE, seconds=0.1, iterations=20)
        process.ask("predict", PATIENCE, outputs=str(tmp_path / "out.npy"), **words)
    assert answer["device"] == "cuda:0"
    assert answer["precision"] == "f32"
    assert answer["properties"]["tf32"] == "False"
    assert answer["properties"]["cuda_graph"] == str(capture)
    assert len(times["compute_ns"]) == len(times["ns"])
    assert np.median(times["compute_ns"]) < np.median(times["ns"])
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, expected(module, images(6)), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_layers_are_timed_on_a_gpu(program: Path) -> None:
    with RunnerProcess("small") as process:
        process.ask("load", PATIENCE, artifact=str(program), device="cuda:0", profile=True)
        process.ask("warmup", PATIENCE, seconds=0.05, limit=1.0)
        told = process.ask("layers", PATIENCE, iterations=5)
    assert all(0 < layer["ns"] < told["total_ns"] for layer in told["layers"])


def test_a_program_of_half_precision_is_refused_for_what_it_takes(tmp_path: Path) -> None:
    half = torch.nn.Linear(4, 2).half()
    exported = torch.export.export(half, (torch.zeros(1, 3, 4, 4, dtype=torch.float16),))
    torch.export.save(exported, tmp_path / "half.pt2")
    with (
        RunnerProcess("half") as process,
        pytest.raises(MeasureError, match=r"takes torch\.float16; float32 images are wanted"),
    ):
        process.ask("load", PATIENCE, artifact=str(tmp_path / "half.pt2"))

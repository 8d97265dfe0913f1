"""The recipe: what is in it, what is refused, and that it leads to an engine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edgeprune import Captured
from edgeprune.errors import ExportError, ParityError, UsageError
from edgeprune.targets import Target, load_target, target_names
from edgeprune.targets.target import Device
from edgeprune_exporters import (
    Artifact,
    ExportOptions,
    Images,
    Job,
    Kept,
    LabelledImages,
    TorchModel,
)
from edgeprune_exporters.converting import Converted, converted
from edgeprune_exporters.external_data import save_graph
from edgeprune_exporters.parity import ParityProof
from edgeprune_exporters.proving import prove_artifact
from edgeprune_exporters.tensorrt import TensorrtExporter, building, exporter
from edgeprune_exporters.tensorrt.limits import graph_refusal, least_version
from edgeprune_exporters.tensorrt.settings import engine_of
from edgeprune_exporters.tensorrt.trtexec import FAMILIES

from .fake_tensorrt import install, versions

ORIN = Target(
    name="my-jetson",
    description="a Jetson of mine",
    runtime="tensorrt",
    formats=("tensorrt",),
    align=8,
    opset=19,
    precision="fp16",
    device=Device(source="its label", jetpack="6.2", tensorrt="10.3", memory_gb=8),
)
FILES = {
    "model.onnx",
    "golden_inputs.npy",
    "golden_outputs.npy",
    "recipe.json",
    "run.py",
    "BUILD.md",
}


def with_device(target: Target, **changes: Any) -> Target:
    assert target.device is not None
    return replace(target, device=replace(target.device, **changes))


def job_of(
    captured: Captured,
    images: Tensor,
    target: Target = ORIN,
    labels: NDArray[Any] | None = None,
    **options: Any,
) -> Job:
    split = None
    if labels is not None:
        split = LabelledImages(labels=labels, batches=lambda _: iter([images.numpy()]))
    return Job(
        model=TorchModel(captured),
        target=target,
        images=Images(parity=images, calibration=images, validation=split),
        options=ExportOptions(**options),
    )


def export(job: Job, precision: str, folder: Path) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    return TensorrtExporter().export(job, precision, folder)


def recipe_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return document


def types_of_weights(folder: Path) -> set[int]:
    graph = onnx.load(folder / "model.onnx").graph
    return {each.data_type for each in graph.initializer if each.dims}


@pytest.fixture(scope="module")
def orin(cnn: Captured, images: Tensor) -> Job:
    """One job for all that is asked of it, so that its graph is made once."""
    return job_of(cnn, images)


@pytest.fixture(scope="module")
def xavier(cnn: Captured, images: Tensor) -> Job:
    return job_of(cnn, images, with_device(replace(ORIN, opset=17), tensorrt="8.6"))


# ------------------------------------------------------------------ what is written


def test_a_recipe_holds_all_that_the_device_needs_and_hashes_of_it(
    orin: Job, tmp_path: Path
) -> None:
    artifact = export(orin, "fp32", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES == set(artifact.files)
    assert artifact.files[0] == "model.onnx"
    recipe = recipe_of(tmp_path)
    for name, digest in recipe.pop("files").items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert recipe == {
        "format": "edgeprune-tensorrt-recipe",
        "version": 1,
        "target": "my-jetson",
        "onnx": "model.onnx",
        "opset": 19,
        "precision": "fp32",
        "flags": [],
        "input": "images",
        "output": "logits",
        "profile": {"min": [1, 3, 32, 32], "opt": [1, 3, 32, 32], "max": [8, 3, 32, 32]},
        "workspace_mb": 2048,
        "dla_core": None,
        "tensorrt": {"expected": "10.3", "least": "10.0", "below": None},
        "golden": {
            "inputs": "golden_inputs.npy",
            "outputs": "golden_outputs.npy",
            "tolerance": 1e-3,
            "agreement": 0.875,  # all but one of 8
            "multi_label": False,
        },
    }


def test_golden_vectors_are_given_images_and_the_models_own_logits(
    orin: Job, tmp_path: Path
) -> None:
    export(orin, "fp16", tmp_path)
    inputs, outputs = (np.load(tmp_path / f"golden_{name}.npy") for name in ("inputs", "outputs"))
    assert inputs.shape == (8, 3, 32, 32)
    assert {each.tobytes() for each in inputs} <= {
        each.tobytes() for each in orin.images.parity.numpy()
    }
    assert np.array_equal(outputs, orin.model.logits(inputs))


@pytest.mark.parametrize(
    "precision", ["fp32", "fp16", pytest.param("int8", marks=pytest.mark.slow)]
)
def test_two_exports_are_equal_and_tell_nothing_of_this_machine(
    precision: str, cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        export(job_of(cnn, images), precision, tmp_path / name)
    for file in FILES:
        data = (tmp_path / "one" / file).read_bytes()
        assert data == (tmp_path / "two" / file).read_bytes(), file
        assert str(tmp_path).encode() not in data
        assert str(Path.home()).encode() + b"/" not in data


def test_the_program_that_travels_is_the_packages_own(orin: Job, tmp_path: Path) -> None:
    export(orin, "fp32", tmp_path)
    source = Path(building.__file__).with_name("run.py").read_bytes()
    assert (tmp_path / "run.py").read_bytes() == source


@pytest.mark.parametrize(("precision", "flags"), [("fp16", ["FP16"]), ("int8", ["INT8", "FP16"])])
def test_precision_lies_in_the_graph_and_older_versions_are_told_by_flags(
    precision: str, flags: list[str], orin: Job, tmp_path: Path
) -> None:
    artifact = export(orin, precision, tmp_path)
    assert recipe_of(tmp_path)["flags"] == flags
    assert artifact.precision == recipe_of(tmp_path)["precision"] == precision
    assert artifact.proof.ok
    assert TensorProto.FLOAT16 in types_of_weights(tmp_path)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert ("QuantizeLinear" in operators) == (precision == "int8")


def test_below_opset_19_what_is_not_quantised_stays_in_float32(
    vit: Captured, images: Tensor, tmp_path: Path
) -> None:
    old = with_device(replace(ORIN, opset=17), tensorrt="8.6")
    artifact = export(job_of(vit, images, old), "int8", tmp_path)
    assert artifact.opset == 17
    assert recipe_of(tmp_path)["flags"] == ["INT8", "FP16"]
    assert TensorProto.FLOAT16 not in types_of_weights(tmp_path)
    graph = onnx.load(tmp_path / "model.onnx")
    assert graph_refusal(graph, (8, 6)) is None
    operators = {node.op_type for node in graph.graph.node}
    assert "DequantizeLinear" in operators
    assert "Cast" not in operators


@pytest.mark.parametrize(("name", "warned"), [("xavier", True), ("orin", False)])
def test_what_stayed_in_float32_is_no_promise_where_types_are_suggestions(
    name: str,
    warned: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keeping(*arguments: Any) -> Converted:
        kept = Kept(name="here", operator="Softmax", precision="fp32", reason="measured")
        return replace(converted(*arguments), kept=(kept,))

    job = request.getfixturevalue(name)
    assert not any("suggestions" in note for note in export(job, "fp32", tmp_path).notes)
    monkeypatch.setattr(exporter, "converted", keeping)
    artifact = export(job, "fp32", tmp_path)
    assert any("suggestions" in note for note in artifact.notes) == warned
    assert len(artifact.kept) == 1


def test_a_graph_for_one_batch_size_has_no_profile(
    cnn: Captured, fixed: Captured, images: Tensor, tmp_path: Path
) -> None:
    export(job_of(cnn, images, batch=4), "fp32", tmp_path / "asked")
    assert recipe_of(tmp_path / "asked")["profile"] is None
    assert np.load(tmp_path / "asked" / "golden_inputs.npy").shape == (4, 3, 32, 32)
    export(job_of(fixed, images), "fp32", tmp_path / "of the model")
    assert recipe_of(tmp_path / "of the model")["profile"] is None
    assert np.load(tmp_path / "of the model" / "golden_inputs.npy").shape == (2, 3, 32, 32)


def test_findings_are_called_one_by_one(cnn: Captured, images: Tensor, tmp_path: Path) -> None:
    labels = np.zeros((len(images), 5), np.int64)
    export(job_of(cnn, images, labels=labels), "fp32", tmp_path)
    golden = recipe_of(tmp_path)["golden"]
    assert golden["multi_label"] is True
    assert golden["agreement"] == 1 - 1 / (8 * 5)


def test_instructions_give_commands_for_the_versions_that_read_the_graph(
    orin: Job, vit: Captured, images: Tensor, tmp_path: Path
) -> None:
    export(orin, "fp16", tmp_path / "new")
    text = (tmp_path / "new" / "BUILD.md").read_text(encoding="utf-8")
    assert "TensorRT 10.3 (JetPack 6.2), in fp16" in text
    assert [name for name in FAMILIES if f"TensorRT {name}:" in text] == ["10.x", "11.x"]
    old = with_device(replace(ORIN, opset=17), tensorrt="8.6")
    export(job_of(vit, images, old), "fp32", tmp_path / "old")
    text = (tmp_path / "old" / "BUILD.md").read_text(encoding="utf-8")
    # A LayerNormalization is in it, which 8.5 lacks.
    assert [name for name in FAMILIES if f"TensorRT {name}:" in text] == ["8.6", "10.x", "11.x"]
    assert recipe_of(tmp_path / "old")["tensorrt"]["least"] == "8.6"
    assert "    trtexec --onnx=model.onnx " in text


def test_without_tensorrt_the_notes_say_that_the_engine_is_built_on_the_device(
    orin: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    note = export(orin, "fp32", tmp_path).notes[-1]
    assert "on the device, with 'python3 run.py build': TensorRT is not installed here" in note


@pytest.mark.parametrize(("lost", "allowed"), [(1e-6, 1e-2), (0.04, 0.08)])
def test_an_engine_may_lose_twice_what_the_file_lost_and_what_gpus_add(
    lost: float, allowed: float, orin: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*arguments: Any) -> ParityProof:
        proof = prove_artifact(*arguments)
        batches = tuple(replace(batch, max_rel=lost) for batch in proof.batches)
        return replace(proof, batches=batches, limit=replace(proof.limit, tolerance=1.0))

    monkeypatch.setattr(exporter, "prove_artifact", measured)
    export(orin, "fp16", tmp_path)
    assert recipe_of(tmp_path)["golden"]["tolerance"] == allowed


# ------------------------------------------------------------------ what is refused


def test_a_target_without_tensorrt_is_refused_with_what_to_write_into_it(cnn: Captured) -> None:
    for target in (load_target("cpu"), with_device(ORIN, tensorrt=None)):
        reason = TensorrtExporter().refusal(TorchModel(cnn), target, "fp16")
        assert reason is not None
        assert 'tensorrt = "10.3"' in reason
    assert TensorrtExporter().refusal(TorchModel(cnn), ORIN, "fp16") is None


@pytest.mark.parametrize(
    ("cores", "precision", "options", "message"),
    [
        (0, "fp16", {"dla_core": 0, "batch": 1}, "has no deep learning accelerator"),
        (2, "fp16", {"dla_core": 2, "batch": 1}, "has 2, numbered from 0: give 1 or less"),
        (2, "fp16", {"dla_core": 0}, "takes one batch size: give --batch N"),
        (2, "int8", {"dla_core": 0, "batch": 1}, "int8 was asked for: give --precision fp16"),
        (2, "fp32", {"dla_core": 0, "batch": 1}, "fp32 was asked for: give --precision fp16"),
        (0, "fp16", {"workspace_mb": 8193}, "8193 is more than the 8192 MiB of 'my-jetson'"),
    ],
)
def test_an_option_that_the_device_cannot_meet_is_refused(  # noqa: PLR0917 - one case
    cores: int,
    precision: str,
    options: dict[str, Any],
    message: str,
    cnn: Captured,
    images: Tensor,
    tmp_path: Path,
) -> None:
    job = job_of(cnn, images, with_device(ORIN, dla_cores=cores), **options)
    with pytest.raises(UsageError, match=message):
        export(job, precision, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_accelerator_that_is_there_is_in_the_recipe_and_the_commands(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    job = job_of(cnn, images, with_device(ORIN, dla_cores=2), dla_core=1, batch=1)
    export(job, "fp16", tmp_path)
    assert recipe_of(tmp_path)["dla_core"] == 1
    assert "--useDLACore=1 --allowGPUFallback" in (tmp_path / "BUILD.md").read_text()


@pytest.mark.parametrize(
    ("asked", "device", "wanted"),
    [
        (512, {"workspace_mb": 3000}, 512),
        (None, {"workspace_mb": 3000}, 3000),
        (None, {}, 2048),
        (None, {"memory_gb": None}, 1024),
    ],
)
def test_building_uses_what_was_asked_or_what_the_target_says_or_a_quarter_of_the_memory(
    asked: int | None, device: dict[str, Any], wanted: int, cnn: Captured, images: Tensor
) -> None:
    job = job_of(cnn, images, with_device(ORIN, **device), workspace_mb=asked)
    assert engine_of(job, "fp32").workspace_mb == wanted


def test_an_operator_that_the_version_lacks_is_refused_by_its_node(
    vit: Captured, images: Tensor, tmp_path: Path
) -> None:
    xavier = with_device(replace(ORIN, opset=17), tensorrt="8.5.2")
    with pytest.raises(
        ExportError,
        match=r"no tensorrt for target 'my-jetson': node '\w+' \(LayerNormalization\): "
        r"TensorRT 8\.5\.2 has no such operator, 8\.6 is the first",
    ):
        export(job_of(vit, images, xavier), "fp32", tmp_path)
    export(job_of(vit, images, replace(xavier, opset=16)), "fp32", tmp_path)


def graph(
    *nodes: onnx.NodeProto, constants: dict[str, NDArray[Any]] | None = None
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    made = helper.make_graph(list(nodes), "g", [], [], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)])


def node(kind: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), list(outputs), name="here", **attributes)


ZERO, SCALE = np.zeros((), np.int8), np.ones((), np.float32)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (graph(node("Unique", "x")), "(Unique): TensorRT has no such operator"),
        (graph(node("Attention", "q", "k", "v")), "TensorRT 10.3 has no such operator, 10.14"),
        (graph(node("Gelu", "x", domain="com.example")), "and this one is of 'com.example'"),
        (graph(node("Cast", "x", to=TensorProto.DOUBLE)), "TensorRT has no double"),
        (graph(constants={"w": np.ones(1, np.float64)}), "'w' is of type double"),
        (
            graph(node("Constant", outputs=("w",), value=numpy_helper.from_array(np.ones(1)))),
            "'w' is of type double",
        ),
        (
            graph(node("QuantizeLinear", "x", "s", "z"), constants={"s": SCALE, "z": ZERO + 1}),
            "its zero point is not 0",
        ),
        (
            graph(
                node("DequantizeLinear", "x", "s", "z"),
                constants={"s": SCALE, "z": np.zeros((), np.uint8)},
            ),
            "its integers are uint8",
        ),
        (graph(node("QuantizeLinear", "x", "s"), constants={"s": SCALE}), "are uint8, and not"),
        (
            graph(
                node("DequantizeLinear", "w", "s"),
                constants={"s": SCALE, "w": np.ones(3, np.int32)},
            ),
            "its integers are int32",
        ),
        (graph(node("QuantizeLinear", "x", "s", "z")), "its zero point is no constant"),
        (graph(node("MaxPool", "x", outputs=("y", "i"), kernel_shape=[2, 2])), "no indices"),
        (
            graph(node("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 2])),
            "does not dilate pooling",
        ),
        (graph(node("LayerNormalization", "x", "w", outputs=("y", "m"))), "first output alone"),
        (graph(node("Resize", "x", "", "s", antialias=1)), "does not antialias"),
        (graph(node("ScatterND", "x", "i", "u", reduction="add")), "has no reduction add"),
        (
            graph(
                node(
                    "If",
                    "c",
                    then_branch=helper.make_graph([node("Unique", "x")], "t", [], []),
                    else_branch=helper.make_graph([], "e", [], []),
                )
            ),
            "(Unique): TensorRT has no such operator",
        ),
    ],
)
def test_what_tensorrt_cannot_read_is_named(broken: onnx.ModelProto, message: str) -> None:
    reason = graph_refusal(broken, (10, 3))
    assert reason is not None
    assert message in reason


@pytest.mark.parametrize(
    "sound",
    [
        graph(node("QuantizeLinear", "x", "s", "z"), constants={"s": SCALE, "z": ZERO}),
        graph(node("DequantizeLinear", "x", "s")),
        graph(node("DequantizeLinear", "w", "s"), constants={"w": np.ones(3, np.int8)}),
        graph(node("MaxPool", "x", kernel_shape=[2, 2], dilations=[1, 1])),
        graph(node("LayerNormalization", "x", "w")),
        graph(node("Cast", "x", to=TensorProto.FLOAT16)),
        graph(node("Resize", "x", "", "s", mode="linear")),
        graph(node("ScatterND", "x", "i", "u")),
        graph(node("Gather", "x", "i"), constants={"i": np.array([2**40])}),
    ],
)
def test_what_tensorrt_can_read_is_not_refused(sound: onnx.ModelProto) -> None:
    assert graph_refusal(sound, (10, 3)) is None


def test_the_oldest_version_follows_from_opset_and_operators() -> None:
    assert least_version(graph(node("Relu", "x")), 17) == (8, 5)
    assert least_version(graph(node("LayerNormalization", "x", "w")), 17) == (8, 6)
    assert least_version(graph(node("LayerNormalization", "x", "w")), 19) == (10, 0)
    assert least_version(graph(node("Relu", "x")), 21) == (10, 9)
    assert least_version(graph(node("Attention", "q", "k", "v")), 23) == (10, 14)


# ------------------------------------------------------------------ the engine


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give this machine a GPU, and a TensorRT of any version that really computes."""

    def appear(version: str = "10.3.0", capability: str = "8.7", **more: Any) -> None:
        folder = install(tmp_path / "site", version, **more)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setattr(building, "compute_capability", lambda: capability)

    return appear


@pytest.mark.parametrize(
    ("version", "precision"),
    [("8.6.1", "int8"), ("10.3.0", "fp32"), ("10.3.0", "fp16"), ("11.4.0", "int8")],
)
def test_on_the_device_itself_the_engine_is_built_and_proven_at_once(  # noqa: PLR0917 - one case
    version: str,
    precision: str,
    orin: Job,
    xavier: Job,
    tmp_path: Path,
    device: Callable[..., None],
) -> None:
    device(version)
    artifact = export(xavier if version.startswith("8") else orin, precision, tmp_path / "recipe")
    assert {"engine.plan", "engine.json"} < set(artifact.files)
    assert set(artifact.files) == {path.name for path in (tmp_path / "recipe").iterdir()}
    proof = json.loads((tmp_path / "recipe" / "engine.json").read_text())
    assert proof["onnx_sha256"] == recipe_of(tmp_path / "recipe")["files"]["model.onnx"]
    share = f"{proof['shares'][precision]['share']:.0%} of its layers compute in {precision}"
    assert f"built here, by TensorRT {version} for" in artifact.notes[-1]
    assert share in artifact.notes[-1]


TARGETS = [name for name in target_names() if "tensorrt" in load_target(name).formats]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "vit"])
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_its_engine_at_each_of_its_precisions(  # noqa: PLR0917 - one case
    name: str,
    model: str,
    images: Tensor,
    tmp_path: Path,
    device: Callable[..., None],
    request: pytest.FixtureRequest,
) -> None:
    target = load_target(name)
    assert target.device is not None
    assert target.device.tensorrt is not None
    has = next(each for each in versions() if each.startswith(target.device.tensorrt))
    device(has, target.device.compute_capability or "8.7")
    job = job_of(request.getfixturevalue(model), images, target)
    for precision in target.precisions:
        artifact = export(job, precision, tmp_path / precision)
        assert f"by TensorRT {has}" in artifact.notes[-1], precision
        assert artifact.opset == target.opset


def test_an_accelerator_of_the_device_is_used_and_its_share_told(
    cnn: Captured, images: Tensor, tmp_path: Path, device: Callable[..., None]
) -> None:
    device(dla_cores=2)
    job = job_of(cnn, images, with_device(ORIN, dla_cores=2), dla_core=1, batch=2)
    note = export(job, "fp16", tmp_path / "recipe").notes[-1]
    assert re.search(r"\d+% of its parts run on accelerator 1", note)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("fails", ExportError, "no engine for target 'my-jetson': TensorRT 10.3.0 cannot build"),
        ("float", ParityError, "fp16 was asked for"),
        ("swap", ParityError, "the engine is not the model"),
    ],
)
def test_an_engine_that_is_not_the_model_fails_the_export(  # noqa: PLR0917 - one case
    fault: str,
    kind: type[ExportError],
    message: str,
    orin: Job,
    tmp_path: Path,
    device: Callable[..., None],
) -> None:
    device(faults=[fault])
    with pytest.raises(ExportError, match=message) as raised:
        export(orin, "fp16", tmp_path / "recipe")
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


def test_no_engine_is_built_on_another_gpu_than_the_targets(
    cnn: Captured, images: Tensor, tmp_path: Path, device: Callable[..., None]
) -> None:
    device(capability="9.0")
    target = with_device(ORIN, compute_capability="8.7")
    artifact = export(job_of(cnn, images, target), "fp32", tmp_path / "recipe")
    assert set(artifact.files) == FILES
    assert "the GPU here has compute capability 9.0, and the target's 8.7" in artifact.notes[-1]


def test_no_engine_is_built_from_a_graph_that_is_not_the_model(
    orin: Job,
    tmp_path: Path,
    device: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(graph: onnx.ModelProto, path: Path) -> tuple[str, ...]:
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        tensor = changed.graph.initializer[0]
        values = numpy_helper.to_array(tensor) + np.float32(0.1)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return save_graph(changed, path)

    device()
    monkeypatch.setattr(exporter, "save_graph", wrong)
    artifact = export(orin, "fp32", tmp_path / "recipe")
    assert not artifact.proof.ok
    assert artifact.files == ("model.onnx",)

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from . import fake_tensorrt, fake_tensorrt_recipe
from .fake_tensorrt_recipe import MOST, SIZE, header, left, options, program, seal, write_recipe

TIMINGS = "timing-Orin-sm8.7-trt10.3.0.cache"
Device = Callable[..., ModuleType]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Make this process a device with a TensorRT; return run.py as a module."""
    count = iter(range(100))

    def become(version: str = "10.3.0", **how: Any) -> ModuleType:
        site = fake_tensorrt.install(tmp_path / f"site{next(count)}", version, **how)
        monkeypatch.syspath_prepend(site)
        sys.modules.pop("tensorrt", None)
        return fake_tensorrt_recipe.imported()

    yield become
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe")


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0"])
def test_the_program_builds_proves_and_checks_an_engine(
    version: str, folder: Path, tmp_path: Path
) -> None:
    site = fake_tensorrt.install(tmp_path / "site", version)
    built = program(folder, site, "build")
    assert built.returncode == 0, built.stderr
    timings = TIMINGS.replace("10.3.0", version)
    assert left(folder) == ["engine.json", "engine.plan", timings]
    proof = json.loads((folder / "engine.json").read_text())
    assert json.loads(built.stdout) == {k: v for k, v in proof.items() if k != "layers"}
    assert [each["batch"] for each in proof["parity"]["batches"]] == [1, 3, MOST]
    assert all(0 < each["max_rel"] < 2e-3 for each in proof["parity"]["batches"])
    assert proof["shares"] == {"fp16": {"layers": 5, "share": 1.0}}
    assert proof["device"]["gpu"] == "Orin"
    assert proof["device"]["compute_capability"] == "8.7"
    assert proof["device"]["cuda_runtime"] == "12.6"
    assert proof["warnings"] == ["a kernel is slow"]
    assert str(tmp_path) not in (folder / "engine.json").read_text()
    checked = program(folder, site, "check")
    assert "its layers compute in fp16 (100 %)" in built.stderr
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["parity"] == proof["parity"]


@pytest.mark.parametrize("version", fake_tensorrt.versions())
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_with_flags_only_where_types_are_weak_and_checks(
    version: str, precision: str, device: Device, tmp_path: Path
) -> None:
    folder = write_recipe(tmp_path / "recipe", precision)
    run = device(version)
    proof = run.build(folder, options())
    weak = version.startswith("8.")
    flags = fake_tensorrt_recipe.FLAGS[precision] if weak else []
    assert proof["settings"]["strongly_typed"] is not weak
    assert proof["settings"]["flags"] == flags
    assert precision in proof["shares"]
    asked = header(folder / "engine.plan")
    rounding = [] if precision == "fp32" else ["TF32"]
    assert asked["flags"] == sorted(flags + rounding)
    assert asked["workspace"] == {"WORKSPACE": 64 << 20}
    assert run.check(folder, options())["parity"] == proof["parity"]


def test_a_changed_constant_is_found_by_its_hash(device: Device, folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    kernel = next(t for t in model.graph.initializer if t.name == "kernel")
    kernel.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float16(1.5), "kernel")
    )
    onnx.save(model, folder / "model.onnx")
    run = device()
    with pytest.raises(run.ProofError, match=r"model\.onnx is not the file of the recipe"):
        run.build(folder, options())
    seal(folder)  # who changes the hash as well meets the golden vectors
    with pytest.raises(run.ProofError, match="the engine is not the model: at batch 1"):
        run.build(folder, options())
    assert left(folder) == [TIMINGS]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("swap", r"is not the model: at batch 1 its error relative to the largest logit is \d"),
        ("nan", "largest logit is infinite"),
        ("float", "fp16 was asked for, and the layers compute: 5 in fp32"),
        ("vague", "inspector tells no types"),
    ],
)
def test_an_engine_that_is_not_what_was_asked_for_is_not_kept(
    fault: str, reason: str, device: Device, folder: Path
) -> None:
    run = device(faults=[fault])
    with pytest.raises(run.ProofError, match=reason):
        run.build(folder, options())
    assert left(folder) == [TIMINGS]


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_a_block_that_the_inspector_does_not_open_is_trusted_only_where_types_bind(
    version: str, device: Device, folder: Path
) -> None:
    run = device(version, faults=["myelin"])
    if version == "10.3.0":
        shares = run.build(folder, options())["shares"]
        assert shares["opaque"] == {"layers": 1, "share": 1.0}
        assert shares["fp16"] == {"layers": 0, "share": 0.0}
        return
    with pytest.raises(run.ProofError, match="layers compute: 1 in opaque"):
        run.build(folder, options())


def test_a_class_that_differs_is_refused_though_the_error_is_small(
    device: Device, tmp_path: Path
) -> None:
    golden = {"inputs": "golden_inputs.npy", "outputs": "golden_outputs.npy"}
    golden |= {"tolerance": 3.0, "agreement": 1.0}  # type: ignore[dict-item]
    folder = write_recipe(tmp_path / "recipe", golden=golden)
    run = device(faults=["swap"])
    with pytest.raises(run.ProofError, match=r"and \d+\.\d % of its calls are the model's"):
        run.build(folder, options())


def test_nan_is_refused_whatever_else_is_allowed(device: Device, tmp_path: Path) -> None:
    golden = {"inputs": "golden_inputs.npy", "outputs": "golden_outputs.npy"}
    golden |= {"tolerance": 3.0, "agreement": 0.0}  # type: ignore[dict-item]
    folder = write_recipe(tmp_path / "recipe", golden=golden)
    run = device(faults=["nan"])
    with pytest.raises(run.ProofError, match="largest logit is infinite"):
        run.build(folder, options())


def test_golden_outputs_of_another_model_are_noticed(device: Device, folder: Path) -> None:
    outputs = np.load(folder / "golden_outputs.npy")
    np.save(folder / "golden_outputs.npy", outputs[:, ::-1])
    seal(folder)
    run = device()
    with pytest.raises(run.ProofError, match="the engine is not the model"):
        run.build(folder, options())
    np.save(folder / "golden_outputs.npy", outputs[:, :3])
    seal(folder)
    with pytest.raises(run.ProofError, match=r"logits of shape \(5, 5\), the model of \(5, 3\)"):
        run.build(folder, options())


def test_a_graph_of_fixed_batch_does_not_pass_for_a_dynamic_one(
    device: Device, folder: Path
) -> None:
    onnx.save(fake_tensorrt_recipe.network("fp16", batch=1), folder / "model.onnx")
    seal(folder)
    run = device()
    with pytest.raises(run.RecipeError, match="wants any batch; the graph's batch is 1"):
        run.build(folder, options())


def test_a_fixed_batch_is_proven_at_that_batch(device: Device, tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "recipe", batch=2)
    proof = device().build(folder, options())
    assert [each["batch"] for each in proof["parity"]["batches"]] == [2]
    assert proof["parity"]["images"] == 5


def test_a_failed_build_says_what_tensorrt_said_and_takes_the_old_engine_away(
    device: Device, folder: Path
) -> None:
    device().build(folder, options())
    run = device(faults=["fails"])
    with pytest.raises(run.RunError, match="cannot build the engine: Could not find any impl") as e:
        run.build(folder, options())
    assert e.value.code == 1
    assert left(folder) == [TIMINGS]


def test_a_graph_that_the_parser_does_not_know_is_an_error_with_its_reason(
    device: Device, folder: Path
) -> None:
    model = onnx.load(folder / "model.onnx")
    model.opset_import[0].version = 21
    onnx.save(model, folder / "model.onnx")
    seal(folder)
    run = device()
    with pytest.raises(run.RunError, match=r"10\.3\.0 cannot read model\.onnx: the ONNX opset"):
        run.build(folder, options())


@pytest.mark.parametrize("name", ["tensorrt", "gpu", "compute_capability", "l4t"])
def test_check_refuses_an_engine_of_another_device(name: str, device: Device, folder: Path) -> None:
    run = device()
    run.build(folder, options())
    proof = json.loads((folder / "engine.json").read_text())
    proof["device"][name] = "elsewhere"
    (folder / "engine.json").write_text(json.dumps(proof))
    with pytest.raises(
        run.ProofError, match=f"built where {name} is elsewhere; here it is .*build"
    ):
        run.check(folder, options())


def test_check_refuses_a_changed_engine_or_recipe_and_repeats_the_comparison(
    device: Device, folder: Path
) -> None:
    run = device()
    run.build(folder, options())
    plan, recipe = folder / "engine.plan", folder / "recipe.json"
    whole = plan.read_bytes()
    plan.write_bytes(whole + b" ")
    with pytest.raises(run.ProofError, match=r"engine\.plan is not the engine"):
        run.check(folder, options())
    plan.write_bytes(whole)
    run.check(folder, options())
    text = recipe.read_text()
    recipe.write_text(text.replace('"tolerance": 0.002', '"tolerance": 0.2'))
    with pytest.raises(run.ProofError, match=r"recipe\.json has changed"):
        run.check(folder, options())
    recipe.write_text(text)
    run = device(faults=["swap"])
    with pytest.raises(run.ProofError, match="the engine is not the model"):
        run.check(folder, options())


def test_check_without_an_engine_says_so(device: Device, folder: Path) -> None:
    run = device()
    with pytest.raises(run.RecipeError, match=r"engine\.json cannot be read"):
        run.check(folder, options())


def test_timings_are_used_again_and_those_of_another_version_are_not(
    device: Device, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = device()
    for content in (None, b"timings of 10.3.0", b"timings of 10.0.1", b"torn"):
        if content is not None:
            (folder / TIMINGS).write_bytes(content)
        run.build(folder, options())
        fits = content in (None, b"timings of 10.3.0")
        assert ("cannot be used: timing anew" in capsys.readouterr().err) is not fits
        assert (folder / TIMINGS).read_bytes() == b"timings of 10.3.0"


def test_options_reach_the_builder(device: Device, folder: Path) -> None:
    proof = device().build(folder, options(workspace=100, level=5))
    asked = header(folder / "engine.plan")
    assert asked["workspace"] == {"WORKSPACE": 100 << 20}
    assert asked["level"] == proof["settings"]["level"] == 5


def test_a_level_is_refused_where_tensorrt_has_none(device: Device, folder: Path) -> None:
    run = device("8.5.2")
    with pytest.raises(run.RecipeError, match=r"TensorRT 8\.5\.2 has no --level"):
        run.build(folder, options(level=3))


def test_a_precision_without_its_flag_is_refused_where_types_are_weak(
    device: Device, tmp_path: Path
) -> None:
    folder = write_recipe(tmp_path / "recipe", flags=[])
    run = device("8.6.1")
    with pytest.raises(
        run.RecipeError, match=r"8\.6\.1 needs a flag for fp16; the recipe has none"
    ):
        run.build(folder, options())
    folder = write_recipe(tmp_path / "other", flags=["FP16", "FP17"])
    with pytest.raises(run.RecipeError, match=r"TensorRT 8\.6\.1 has no flag FP17"):
        run.build(folder, options())


# ------------------------------------------------------------------ accelerators


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0"])
def test_layers_run_on_the_accelerator_and_their_share_is_told(
    version: str, device: Device, tmp_path: Path
) -> None:
    folder = write_recipe(tmp_path / "recipe", batch=1, dla_core=1)
    run = device(version, dla_cores=2)
    proof = run.build(folder, options())
    assert proof["dla"] == {"core": 1, "dla": 1, "gpu": 2, "share": 1 / 3}
    assert proof["settings"]["strongly_typed"] is (version == "11.4.0")
    assert header(folder / "engine.plan")["dla"] == 1
    assert run.check(folder, options())["parity"] == proof["parity"]


def test_core_0_can_be_asked_for_on_the_command_line(device: Device, tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "recipe", batch=1)
    assert device(dla_cores=1).build(folder, options(dla=0))["dla"]["core"] == 0


def test_an_accelerator_is_refused_where_it_cannot_be_had(device: Device, tmp_path: Path) -> None:
    run = device("10.13.3")
    fixed = write_recipe(tmp_path / "fixed", batch=1)
    with pytest.raises(run.RecipeError, match=r"DLA core 0 was asked for, and TensorRT .* finds 0"):
        run.build(fixed, options(dla=0))
    dynamic = write_recipe(tmp_path / "dynamic")
    with pytest.raises(run.RecipeError, match="a DLA takes one batch size only"):
        run.build(dynamic, options(dla=0))
    quantized = write_recipe(tmp_path / "quantized", "int8", batch=1)
    with pytest.raises(run.RecipeError, match="a DLA is used in fp16 only; the recipe is in int8"):
        run.build(quantized, options(dla=0))


def test_an_engine_that_fell_back_to_the_gpu_is_not_kept(device: Device, tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "recipe", batch=1, dla_core=0)
    run = device(dla_cores=1, faults=["gpu"])
    with pytest.raises(run.ProofError, match="no layer runs on the DLA"):
        run.build(folder, options())
    assert left(folder) == [TIMINGS]


# ------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("limits", "version", "fits"),
    [
        ({"least": "10.0", "below": None}, "8.6.1", False),
        ({"least": "8.5", "below": "10.0"}, "10.0.1", False),
        ({"least": "8.5", "below": "10.0"}, "8.6.1", True),
        ({"least": "10.0", "below": None}, "10.16.1", True),
    ],
)
def test_a_recipe_is_for_certain_versions(
    limits: dict[str, object], version: str, fits: bool, device: Device, tmp_path: Path
) -> None:
    folder = write_recipe(tmp_path / "recipe", tensorrt={"expected": "10.3", **limits})
    run = device(version)
    if fits:
        run.build(folder, options())
        return
    bounds = f"{limits['least']} and newer" + (limits["below"] is not None) * " and older than 10.0"
    with pytest.raises(run.RecipeError, match=f"TensorRT {bounds}; here is {version}: export"):
        run.build(folder, options())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "is no edgeprune-tensorrt-recipe of version 1"),
        ({"format": "something"}, "is no edgeprune-tensorrt-recipe"),
        ({"files": {"../model.onnx": "0"}}, "names 'model.onnx' without a hash"),
        ({"onnx": "/etc/passwd"}, "names '/etc/passwd' without a hash, or elsewhere"),
        ({"golden": {"inputs": "golden_inputs.npy"}}, "lacks 'outputs'"),
        ({"input": "pixels"}, "has other tensors than the recipe"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    change: dict[str, object], reason: str, device: Device, tmp_path: Path
) -> None:
    folder = write_recipe(tmp_path / "recipe", **change)
    run = device()
    with pytest.raises(run.RecipeError, match=reason) as e:
        run.build(folder, options())
    assert e.value.code == 2


def test_files_outside_the_folder_are_not_read(device: Device, folder: Path) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["files"]["../other/model.onnx.data"] = "0"
    (folder / "recipe.json").write_text(json.dumps(recipe))
    run = device()
    with pytest.raises(run.RecipeError, match=r"names '\.\./other/model\.onnx\.data' without"):
        run.build(folder, options())


def test_a_missing_file_or_a_torn_recipe_is_named(device: Device, folder: Path) -> None:
    run = device()
    (folder / "golden_inputs.npy").unlink()
    with pytest.raises(run.ProofError, match=r"golden_inputs\.npy is missing"):
        run.build(folder, options())
    (folder / "recipe.json").write_text('{"format": ')
    with pytest.raises(run.RecipeError, match=r"recipe\.json is not JSON"):
        run.build(folder, options())


def test_nothing_is_left_of_a_file_that_could_not_be_written_whole(
    device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = device()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run.build(folder, options())
    assert left(folder) == []


# ------------------------------------------------------------------ the engine


def test_an_engine_takes_any_batch_in_any_order_and_gives_its_memory_back(
    device: Device, folder: Path
) -> None:
    run = device()
    run.build(folder, options())
    images = np.random.default_rng(3).normal(size=(MOST, 3, SIZE, SIZE))
    engine = run.Engine.load(folder / "engine.plan")
    together = engine.infer(images)
    held, memory = engine.cuda.library.fake_held(), dict(engine.memory)
    alone = [engine.infer(image[None])[0] for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_array_equal(engine.infer(images), together)
    assert engine.memory == memory
    assert engine.cuda.library.fake_held() == held
    with pytest.raises(run.RunError, match=r"takes no images of shape \(9, 3, 8, 8\)"):
        engine.infer(np.zeros((MOST + 1, 3, SIZE, SIZE), np.float32))
    engine.close()
    assert engine.cuda.library.fake_held() == 0


def test_memory_that_could_not_be_had_is_not_given_back_twice(
    device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = device()
    run.build(folder, options())
    engine = run.Engine.load(folder / "engine.plan")
    engine.infer(np.zeros((1, 3, SIZE, SIZE), np.float32))

    def full(*asked: object) -> int:
        raise run.RunError("cudaMalloc: out of memory")

    monkeypatch.setattr(engine.cuda, "ask", full)
    with pytest.raises(run.RunError, match="out of memory"):
        engine.infer(np.zeros((2, 3, SIZE, SIZE), np.float32))
    engine.close()
    assert engine.cuda.library.fake_held() == 0


def test_a_plan_of_another_version_is_not_loaded(device: Device, folder: Path) -> None:
    device().build(folder, options())
    run = device("10.13.3")
    with pytest.raises(run.RunError, match="cannot be loaded: The engine plan file is not compat"):
        run.Engine.load(folder / "engine.plan")


def test_an_engine_that_cannot_run_says_why(device: Device, folder: Path) -> None:
    run = device(faults=["stuck"])
    with pytest.raises(run.RunError, match="the engine cannot run: Address is not set"):
        run.build(folder, options())


def test_half_precision_outputs_are_refused(device: Device, tmp_path: Path) -> None:
    graph = fake_tensorrt_recipe.network("fp16")
    del graph.graph.node[-1]
    graph.graph.node[-1].output[0] = "logits"
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    folder = write_recipe(tmp_path / "recipe", graph=graph)
    run = device()
    with pytest.raises(run.ProofError, match=r"wanted is one .*OUTPUT.* in float32; found: .*HALF"):
        run.build(folder, options())

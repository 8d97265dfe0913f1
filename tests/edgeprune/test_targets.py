"""Targets: the built-in ones say what is promised, a user's own is checked whole."""

from __future__ import annotations

import platform
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edgeprune.errors import UsageError
from edgeprune.targets import ALIASES, Device, Rates, Target, load_target, target_names
from edgeprune.targets.tensorrt_versions import has_dla, largest_opset, read_version

OWN = """
description = "the box in the ward"
runtime = "openvino"
formats = ["onnx", "openvino"]
align = 32
opset = 18
threads = 2

[device]
memory_gb = 4
source = "its label"

[rates]
fp32_tflops = 0.5
bandwidth_gbs = 20
source = "its data sheet"
"""
# JetPack, TensorRT, opset and DLA cores, as the project's facts about Jetsons have them.
JETSONS = {
    "jetson-orin-nano": ("6.1 / 6.2", "10.3", 19, 0),
    "jetson-orin-nx": ("6.1 / 6.2", "10.3", 19, 2),
    "jetson-agx-orin": ("6.1 / 6.2", "10.3", 19, 2),
    "jetson-xavier": ("5.1", "8.5", 16, 2),
    "jetson-thor": ("7.0 / 7.1", "10.13", 20, 0),
}
# Multiprocessors and clock in MHz: what the peak rates of a GPU of Orin follow from.
ORINS = {"jetson-orin-nano": (8, 625), "jetson-orin-nx": (8, 918), "jetson-agx-orin": (16, 1300)}


def written(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in OWN
    path = folder / "ward.toml"
    path.write_text(OWN.replace(old, new, 1) if old else OWN + new)
    return path


def extending(folder: Path, text: str) -> Target:
    path = folder / "ward.toml"
    path.write_text(text)
    return load_target(path)


def device_of(target: Target) -> Device:
    assert target.device is not None
    return target.device


def rates_of(target: Target) -> Rates:
    assert target.rates is not None
    return target.rates


def test_the_built_in_targets_are_these() -> None:
    assert target_names() == (
        "arm-cpu", "cpu", "cpu-ort", "gpu", "jetson", "jetson-agx-orin", "jetson-orin-nano",
        "jetson-orin-nx", "jetson-thor", "jetson-xavier",
    )  # fmt: skip
    assert dict(ALIASES) == {"jetson": "jetson-orin-nano"}
    assert load_target("jetson") == load_target("jetson-orin-nano")


@pytest.mark.parametrize("name", target_names())
def test_every_fact_about_a_device_has_a_source(name: str) -> None:
    target = load_target(name)
    assert target.description
    for table in (target.device, target.rates):
        assert table is None or len(table.source) > 20


def test_processors_are_measured_in_openvino_or_onnxruntime_at_fp32() -> None:
    cpu, other, arm = load_target("cpu"), load_target("cpu-ort"), load_target("arm-cpu")
    assert (cpu.runtime, cpu.formats, cpu.align) == ("openvino", ("onnx", "openvino"), 16)
    assert (other.runtime, other.formats, other.align) == ("onnxruntime", ("onnx",), 16)
    assert (arm.runtime, arm.formats, arm.align) == ("onnxruntime", ("onnx",), 8)
    assert {each.precision for each in (cpu, other, arm)} == {"fp32"}
    assert cpu.measured_here
    assert cpu.not_measured is None


@pytest.mark.parametrize(
    ("machine", "here"), [("aarch64", True), ("arm64", True), ("x86_64", False)]
)
def test_an_arm_processor_is_measured_on_arm_alone(
    machine: str, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    target = load_target("arm-cpu")
    assert target.measured_here is here
    assert here or "processor is x86_64" in (target.not_measured or "")


@pytest.mark.parametrize("name", [*JETSONS, "gpu"])
def test_tensorrt_targets_get_a_recipe_in_fp16_and_are_measured_on_the_device(name: str) -> None:
    target = load_target(name)
    assert (target.runtime, target.precision, target.align) == ("tensorrt", "fp16", 8)
    assert target.formats == ("onnx:fp32", "tensorrt")
    assert device_of(target).workspace_mb
    assert not target.measured_here
    assert f"latency on '{name}' was not measured here" in (target.not_measured or "")


@pytest.mark.parametrize(("name", "facts"), JETSONS.items())
def test_jetsons_have_the_versions_of_their_jetpack(
    name: str, facts: tuple[str, str, int, int]
) -> None:
    target = load_target(name)
    device = device_of(target)
    assert (device.jetpack, device.tensorrt, target.opset, device.dla_cores) == facts


@pytest.mark.parametrize("name", [*JETSONS, "gpu"])
def test_tensorrt_reads_the_opset_of_its_target(name: str) -> None:
    target = load_target(name)
    version = read_version(device_of(target).tensorrt or "")
    assert version is not None
    largest = largest_opset(version)
    assert largest is not None
    assert target.opset <= largest
    assert target.opset >= 19 or version < (10,)  # below 19 fp16 and Q/DQ do not go together
    assert not device_of(target).dla_cores or has_dla(version)


@pytest.mark.parametrize(("name", "gpu"), ORINS.items())
def test_peak_rates_of_orins_follow_from_their_multiprocessors(
    name: str, gpu: tuple[int, int]
) -> None:
    processors, clock = gpu
    rates = rates_of(load_target(name))
    assert rates.clock_mhz == clock
    fp32 = processors * 128 * 2 * clock / 1e6
    for given, derived in (
        (rates.fp32_tflops, fp32),
        (rates.fp16_tflops, 8 * fp32),
        (rates.int8_tops, 16 * fp32),
    ):
        assert given == pytest.approx(derived, rel=0.03)


@pytest.mark.parametrize("name", ["cpu", "gpu", "jetson-xavier", "jetson-thor"])
def test_what_is_not_known_is_left_out(name: str) -> None:
    assert load_target(name).rates is None


@pytest.mark.parametrize(
    ("version", "opset"),
    [("8.5", 17), ("8.6.2", 17), ("10.0", 20), ("10.3", 20), ("10.8", 20), ("10.13.3.9", 24),
     ("11.4.1", 25), ("8.4", None)],
)  # fmt: skip
def test_the_largest_opset_is_that_of_the_last_version_that_documents_one(
    version: str, opset: int | None
) -> None:
    numbers = read_version(version)
    assert numbers is not None
    assert largest_opset(numbers) == opset


@pytest.mark.parametrize(
    ("version", "there"),
    [("8.5", True), ("10.3", True), ("10.7.0", True), ("10.8", False), ("10.13", False),
     ("11.4", False), ("11.4.1", True)],
)  # fmt: skip
def test_dla_is_gone_between_10_7_and_11_4_1(version: str, there: bool) -> None:
    assert has_dla(read_version(version) or ()) is there


def test_int8_kernels_of_tensorrt_work_on_32_channels() -> None:
    jetson, cpu = load_target("jetson"), load_target("cpu")
    assert [jetson.block(p) for p in ("fp32", "fp16", "int8")] == [8, 8, 32]
    assert [cpu.block(p) for p in ("fp32", "int8")] == [16, 16]


def test_a_file_of_ones_own_is_read_by_path(tmp_path: Path) -> None:
    target = load_target(written(tmp_path))
    assert (target.name, target.align, target.threads, target.precision) == ("ward", 32, 2, "fp32")
    assert device_of(target).memory_gb == 4.0
    assert rates_of(target).fp16_tflops is None


def test_a_file_that_extends_a_target_changes_what_it_names_alone(tmp_path: Path) -> None:
    base = load_target("jetson")
    target = extending(tmp_path, 'extends = "jetson"\nalign = 16\n')
    assert target == replace(base, name="ward", align=16)


def test_a_table_that_is_extended_keeps_the_rest_and_names_both_sources(tmp_path: Path) -> None:
    text = 'extends = "jetson"\n[rates]\nbandwidth_gbs = 102\nsource = "measured"\n'
    base, own = rates_of(load_target("jetson")), rates_of(extending(tmp_path, text))
    assert own == replace(
        base, bandwidth_gbs=102.0, source=f"measured; what it leaves out: {base.source}"
    )


def test_a_table_that_the_other_target_lacks_may_be_added(tmp_path: Path) -> None:
    text = 'extends = "cpu"\n[rates]\nfp32_tflops = 1\nbandwidth_gbs = 40\nsource = "measured"\n'
    target = extending(tmp_path, text)
    assert rates_of(target).source == "measured"
    assert target.device is None


def test_changed_figures_need_a_source_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"table \[rates\] of target 'ward' lacks .*'source'"):
        extending(tmp_path, 'extends = "jetson"\n[rates]\nbandwidth_gbs = 102\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "jetsn"', "extends 'jetsn', which is no built-in target .*mean 'jetson'"),
        ("extends = 3", "extends '3', which is no built-in target: give one of arm-cpu"),
        ('extend = "jetson"', "has a field 'extend' .*did you mean 'extends'"),
        ('extends = "jetson"\nalgin = 8', "has a field 'algin' .*did you mean 'align'"),
        ('extends = "jetson"\nrates = 3', "field 'rates' .* is 3; it has to be a table"),
        ('extends = "jetson"\n[rates]\nsource = 3', "field 'source' .* it has to be a text"),
    ],
)
def test_a_mistake_in_an_extension_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        extending(tmp_path, text)


@pytest.mark.parametrize("kind", [Target, Device, Rates], ids=["target", "device", "rates"])
def test_a_typo_in_any_field_is_named_with_the_nearest(kind: type, tmp_path: Path) -> None:
    for field in fields(kind):
        typo = field.name[:-1] + ("q" if field.name[-1] != "q" else "x")
        table = {Target: "", Device: "[device]\n", Rates: "[rates]\n"}[kind]
        with pytest.raises(UsageError, match=rf"a field '{typo}' .*mean.*'{field.name}'"):
            extending(tmp_path, f'extends = "jetson"\n{table}{typo} = 1\n')


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("align", "algin", r"target 'ward' has a field 'algin' .*did you mean 'align'"),
        ("memory_gb", "memory", r"table \[device\] of target 'ward' .*did you mean 'memory_gb'"),
        ("align = 32\n", "\n", "target 'ward' lacks the field 'align'"),
        ("align = 32", "align = '32'", "field 'align' .* is '32'; it has to be a whole number"),
        ("align = 32", "align = true", "is True; it has to be a whole number"),
        ("align = 32", "align = 0", "align is 0; it has to be 1 or more"),
        ("threads = 2", "max_batch = 0", "max_batch is 0; it has to be 1 or more"),
        ('["onnx", "openvino"]', '"onnx"', "field 'formats' .* has to be a list of texts"),
        ('["onnx", "openvino"]', "[1]", "field 'formats' .* has to be a list of texts"),
        ('["onnx", "openvino"]', "[]", "name at least one format"),
        ('["onnx", "openvino"]', '["onnx", "onnx"]', "and each once"),
        ('["onnx", "openvino"]', '["onnx", "onnx:fp32"]', "and each once"),
        ('["onnx", "openvino"]', '["onnx:fp15"]', "'onnx:fp15' .*unknown .*mean 'fp16'"),
        ('["onnx", "openvino"]', '["onnx:"]', "format 'onnx:' .*unknown: give one of fp32"),
        ('"openvino"\n', '"openvno"\n', "runtime 'openvno' .*did you mean 'openvino'"),
        ("memory_gb = 4", "memory_gb = '4'", "field 'memory_gb' .* has to be a number"),
        ("memory_gb = 4", "memory_gb = 0", "memory_gb is 0; it has to be positive"),
        ("memory_gb = 4", "memory_gb = nan", "memory_gb is nan; it has to be positive"),
        ("memory_gb = 4", f"memory_gb = 1{'0' * 400}", "it has to be a number"),
        ("memory_gb = 4", f"memory_gb = 1{'0' * 5000}", "is not valid TOML"),
        ("memory_gb = 4", f"memory_gb = {'[' * 9999}", "is not valid TOML"),
        ("memory_gb = 4", "memory_gb = true", "is True; it has to be a number"),
        ("memory_gb = 4", "dla_cores = -1", "dla_cores is -1; it has to be 0 or more"),
        ("memory_gb = 4", "dla_cores = 1", "only TensorRT uses them: give 'tensorrt'"),
        ("memory_gb = 4", "memory_gb = 4\nworkspace_mb = 5000", "more than the 4 GB"),
        ("memory_gb = 4", "workspace_mb = 0", "workspace_mb is 0; it has to be positive"),
        ("[device]\n", "device = 3\n[other]\n", "field 'other' that no target has"),
        ("threads = 2", 'precision = "fp64"', "precision 'fp64' is unknown .*mean 'fp16'"),
        ("threads = 2", 'precisions = ["fp23"]', "precision 'fp23' is unknown .*mean 'fp32'"),
        ("threads = 2", "precisions = []", "name at least one, and each once"),
        ("threads = 2", 'precisions = ["fp32", "fp32"]', "name at least one, and each once"),
        ("threads = 2", 'precisions = ["fp16"]', "its precision fp32 is none of its precisions"),
        ("threads = 2", 'processor = "risc"', "processor 'risc' is unknown: give one of x86, arm"),
        ("threads = 2", "threads = ", "target 'ward' is not valid TOML"),
        ("bandwidth_gbs = 20", "bandwidth_gbs = 0", "bandwidth_gbs is 0; it has to be positive"),
        ("bandwidth_gbs = 20", "bandwidth_gbs = inf", "bandwidth_gbs is inf; it has to be pos"),
        ("bandwidth_gbs = 20", "bandwith_gbs = 20", "'bandwith_gbs' .*mean 'bandwidth_gbs'"),
        ("fp32_tflops = 0.5", "fp32_tflops = -1", "fp32_tflops is -1; it has to be positive"),
        ("[rates]", "[rates]\nlaunch_us = -1", "launch_us is -1; it has to be 0 or more"),
        ("[rates]", "[rates]\ncompute_share = 1.5", "compute_share is 1.5; .*at most 1"),
    ],
)
def test_a_mistake_in_a_file_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_target(written(tmp_path, old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('precisions = ["fp16"]', "format 'onnx:fp32' is to be written in fp32, which is none"),
        ("opset = 21", "opset is 21, and TensorRT 10.3 is only known to read up to 20"),
        ('[device]\ntensorrt = "8.5"\nsource = "s"', "opset is 19, and TensorRT 8.5 .*up to 17"),
        ('[device]\ntensorrt = "8.4"\nsource = "s"', "TensorRT 8.4 is too old: 8.5 is the first"),
        ('[device]\ntensorrt = "ten"\nsource = "s"', "tensorrt is 'ten'; it has to be a version"),
        ('[device]\ntensorrt = "10"\nsource = "s"', "tensorrt is '10'; it has to be a version"),
        (
            '[device]\ntensorrt = "10.13"\ndla_cores = 1\nsource = "s"',
            "dla_cores is 1, and TensorRT 10.13 uses none",
        ),
    ],
)
def test_a_contradiction_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"target 'ward': .*{message}"):
        extending(tmp_path, f'extends = "jetson"\n{text}\n')


@pytest.mark.parametrize(
    ("device", "message"),
    [("", r"no table \[device\]"), ('[device]\nsource = "s"', "has no field 'tensorrt'")],
)
def test_a_recipe_needs_the_version_that_will_read_it(
    device: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ward.toml"
    head = 'description = "d"\nruntime = "tensorrt"\nformats = ["tensorrt"]\nalign = 8\nopset = 19'
    path.write_text(f"{head}\n{device}\n")
    with pytest.raises(UsageError, match=f"{message}, and the format 'tensorrt' needs the version"):
        load_target(path)


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no target 'jetsn' .did you mean 'jetson'"):
        load_target("jetsn")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml' cannot be read: No such file"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'description = "\xe9"')
    with pytest.raises(UsageError, match=r"latin.toml' is not UTF-8"):
        load_target(tmp_path / "latin.toml")

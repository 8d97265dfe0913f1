"""Targets: the built-in ones say what is promised, a user's own is checked whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.errors import UsageError
from edgeprune.targets import load_target, target_names

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
"""


def written(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in OWN
    path = folder / "ward.toml"
    path.write_text(OWN.replace(old, new) if old else OWN + new)
    return path


def test_the_built_in_targets_are_these() -> None:
    assert target_names() == ("cpu", "cpu-ort", "jetson", "jetson-orin-nano")
    for name in target_names():
        assert load_target(name).description


def test_cpu_is_measured_in_openvino_and_cpu_ort_in_onnxruntime() -> None:
    cpu, other = load_target("cpu"), load_target("cpu-ort")
    assert (cpu.runtime, cpu.formats, cpu.align) == ("openvino", ("onnx", "openvino"), 16)
    assert (other.runtime, other.formats, other.align) == ("onnxruntime", ("onnx",), 16)
    assert cpu.measured_here
    assert cpu.not_measured is None


def test_jetson_is_the_orin_nano_and_says_that_the_engine_is_built_there() -> None:
    jetson = load_target("jetson")
    assert jetson == load_target("jetson-orin-nano")
    assert (jetson.formats, jetson.align, jetson.opset) == (("onnx",), 8, 19)
    assert jetson.device is not None
    assert jetson.device.tensorrt == "10.3"
    assert not jetson.measured_here
    assert "TensorRT 10.3 engines are built on the device" in (jetson.not_measured or "")


def test_a_tensorrt_target_without_a_known_device_says_so_too() -> None:
    assert "TensorRT engines are" in (
        replace(load_target("jetson"), device=None).not_measured or ""
    )


def test_a_file_of_ones_own_is_read_by_path(tmp_path: Path) -> None:
    target = load_target(written(tmp_path))
    assert (target.name, target.align, target.threads, target.precision) == ("ward", 32, 2, "fp32")
    assert target.device is not None
    assert target.device.memory_gb == 4.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("align", "algin", r"target 'ward' has a field 'algin' .*did you mean 'align'"),
        ("memory_gb", "memory", r"table \[device\] of target 'ward' .*did you mean 'memory_gb'"),
        ("align = 32\n", "\n", "target 'ward' lacks the field 'align'"),
        ("align = 32", "align = '32'", "field 'align' .* is '32'; it has to be a whole number"),
        ("align = 32", "align = true", "is True; it has to be a whole number"),
        ("align = 32", "align = 0", "align is 0; it has to be 1 or more"),
        ('["onnx", "openvino"]', '"onnx"', "field 'formats' .* has to be a list of texts"),
        ('["onnx", "openvino"]', "[1]", "field 'formats' .* has to be a list of texts"),
        ('["onnx", "openvino"]', "[]", "name at least one format"),
        ('["onnx", "openvino"]', '["onnx", "onnx"]', "and each once"),
        ('"openvino"\n', '"openvno"\n', "runtime 'openvno' .*did you mean 'openvino'"),
        ("memory_gb = 4", "memory_gb = '4'", "field 'memory_gb' .* has to be a number"),
        ("[device]\n", "device = 3\n[other]\n", "field 'other' that no target has"),
        ("threads = 2", 'precision = "fp64"', "precision 'fp64' cannot be written: give fp32"),
        ("threads = 2", "threads = ", "target 'ward' is not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_target(written(tmp_path, old, new))


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no target 'jetsn' .did you mean 'jetson'"):
        load_target("jetsn")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml' cannot be read: No such file"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'description = "\xe9"')
    with pytest.raises(UsageError, match=r"latin.toml' is not UTF-8"):
        load_target(tmp_path / "latin.toml")

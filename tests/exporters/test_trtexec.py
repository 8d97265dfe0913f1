"""Command lines for trtexec: only flags that the version takes, and comparable timings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.targets.tensorrt_versions import Version
from edgeprune_exporters.tensorrt.trtexec import (
    FAMILIES,
    FLAGS,
    Engine,
    build_command,
    time_command,
)

# By version, the flags that each takes: a matrix read off the sources, kept beside the checkout.
MATRIX = Path(__file__).parents[3] / "shared/reference/trtexec_flags.txt"
MATRIX_VERSIONS = ((8, 5), (8, 6), (10, 3), (10, 7), (10, 13), (10, 16), (11, 1))
# Parsed on the same lines as --minShapes, or read off the sources for this table.
NOT_IN_MATRIX = {"--optShapes", "--maxShapes", "--noTF32"}
# Taken by these versions and not used with them: without effect, or against strong typing.
UNUSED = {
    **{flag: {(11, 1)} for flag in ("--stronglyTyped", "--useCudaGraph", "--useSpinWait")},
    "--noDataTransfers": {(11, 1)},
    "--buildOnly": {(8, 6)},
    "--int8": {(11, 1)},  # a rest of the builder for safety
}

DYNAMIC = Engine(
    onnx="model.onnx",
    input="images",
    profile={"min": (1, 3, 32, 32), "opt": (1, 3, 32, 32), "max": (8, 3, 32, 32)},
    precision_flags=("INT8", "FP16"),
    workspace_mb=1024,
    dla_core=None,
)
EXACT = replace(DYNAMIC, precision_flags=())
FIXED_ON_DLA = replace(DYNAMIC, profile=None, precision_flags=("FP16",), dla_core=1)


def matrix() -> dict[str, dict[Version, bool]]:
    """Read the matrix of flags by version; the last name runs into its first column."""
    found = {}
    for line in MATRIX.read_text(encoding="utf-8").splitlines():
        name, columns = line[:28].strip(), line[28:].split()
        found[name] = {v: c == "y" for v, c in zip(MATRIX_VERSIONS, columns, strict=True)}
    return found


def flags(command: tuple[str, ...]) -> set[str]:
    return {word.partition("=")[0] for word in command if word.startswith("--")}


@pytest.mark.skipif(not MATRIX.is_file(), reason="the matrix lies beside the checkout")
def test_the_table_of_flags_agrees_with_the_sources_of_each_version() -> None:
    facts = matrix()
    assert set(FLAGS) - set(facts) == NOT_IN_MATRIX
    for flag in set(FLAGS) - NOT_IN_MATRIX:
        for version, taken in facts[flag].items():
            used = FLAGS[flag].holds(version)
            assert used == (taken and version not in UNUSED.get(flag, ())), (flag, version)


@pytest.mark.parametrize("engine", [DYNAMIC, EXACT, FIXED_ON_DLA])
@pytest.mark.parametrize("version", [*MATRIX_VERSIONS, (11, 4, 1)])
def test_no_command_has_a_flag_that_the_version_lacks(engine: Engine, version: Version) -> None:
    for command in (build_command(engine, version), time_command(engine, version)):
        assert command[0] == "trtexec"
        assert all(FLAGS[flag].holds(version) for flag in flags(command))


def test_precision_is_a_flag_for_8_and_the_graphs_own_from_10_on() -> None:
    precision = {"--fp16", "--int8", "--stronglyTyped"}
    used = {name: flags(build_command(DYNAMIC, v)) & precision for name, v in FAMILIES.items()}
    assert used == {
        "8.5": {"--fp16", "--int8"},
        "8.6": {"--fp16", "--int8"},
        "10.x": {"--stronglyTyped"},
        "11.x": set(),
    }


def test_float32_is_not_rounded_to_tf32_where_that_can_be_said() -> None:
    assert "--noTF32" not in flags(build_command(DYNAMIC, (10, 3)))
    assert "--noTF32" in flags(build_command(EXACT, (8, 5)))
    assert "--noTF32" in flags(build_command(EXACT, (10, 16)))
    assert "--noTF32" not in flags(build_command(EXACT, (11, 0)))


def test_a_build_names_the_shapes_of_the_profile_and_what_memory_it_may_use() -> None:
    assert build_command(DYNAMIC, (10, 3)) == (
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=trtexec.plan",
        "--timingCacheFile=trtexec.cache",
        "--memPoolSize=workspace:1024",
        "--minShapes=images:1x3x32x32",
        "--optShapes=images:1x3x32x32",
        "--maxShapes=images:8x3x32x32",
        "--stronglyTyped",
        "--skipInference",
    )


def test_building_alone_is_asked_for_under_the_name_that_the_version_has() -> None:
    assert "--buildOnly" in flags(build_command(DYNAMIC, (8, 5)))
    assert "--buildOnly" not in flags(build_command(DYNAMIC, (8, 6)))


def test_timings_are_taken_in_the_form_that_11_has_by_default() -> None:
    normal = {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"}
    for version in MATRIX_VERSIONS:
        used = flags(time_command(DYNAMIC, version))
        assert (normal <= used) == (version < (11,))
        assert used - normal == {"--loadEngine", "--shapes", "--exportTimes"}


def test_an_accelerator_is_named_for_building_and_for_timing_and_shapes_are_not() -> None:
    build = build_command(FIXED_ON_DLA, (10, 3))
    assert {"--useDLACore=1", "--allowGPUFallback", "--fp16"} < set(build)
    assert "--stronglyTyped" not in build
    assert not any("Shapes" in word or "--shapes" in word for word in build)
    assert "--useDLACore=1" in time_command(FIXED_ON_DLA, (10, 3))
    assert "--shapes" not in flags(time_command(FIXED_ON_DLA, (10, 3)))

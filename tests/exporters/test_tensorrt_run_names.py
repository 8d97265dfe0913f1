"""run.py calls nothing that some version of TensorRT does not have, and the fake is as strict."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from . import fake_tensorrt
from .fake_tensorrt_recipe import RUN, network

TABLE = fake_tensorrt.table()
FACTS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "tensorrt_api.txt"
RECEIVERS = {  # what run.py calls TensorRT's objects
    "trt": "",
    "self.trt": "",
    "kinds": "NetworkDefinitionCreationFlag",
    "severity": "ILogger.Severity",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "end": "ITensor",
    "ends[0]": "ITensor",
    "parser": "OnnxParser",
    "parser.get_error(n)": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "config.get_timing_cache()": "ITimingCache",
    "self.runtime": "Runtime",
    "self.engine": "ICudaEngine",
    "self.context": "IExecutionContext",
    "inspector": "EngineInspector",
}
OF_THE_FAKE_ONLY = {  # so that there is something wrong to be chosen
    *("ProfilingVerbosity.LAYER_NAMES_ONLY", "LayerInformationFormat.ONELINE", "DeviceType.GPU"),
    *("TensorIOMode.NONE", "DataType.HALF", "DataType.INT8", "BuilderFlag.INT8"),
    *("ILogger.Severity.INFO", "ILogger.Severity.VERBOSE", "ILogger.log"),
}
OF_THE_DEVICE_RUNNER = {  # which profiles an engine
    *("IExecutionContext.profiler", "EngineInspector.execution_context"),
    *("IProfiler", "IProfiler.report_layer_time"),
}
GUARDED = {  # behind a question for the version or for the name
    *(
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    ),
    *("BuilderFlag.FP16", "IBuilderConfig.builder_optimization_level"),
}


def tree() -> ast.Module:
    return ast.parse(RUN.read_text(), feature_version=(3, 8))


def full_name(node: ast.Attribute) -> str | None:
    """Name of an attribute in the table's words, if it is one of TensorRT's."""
    owner = node.value
    if isinstance(owner, ast.Attribute) and ast.unparse(owner) not in RECEIVERS:
        prefix = full_name(owner)
    else:
        prefix = RECEIVERS.get(ast.unparse(owner))
    return None if prefix is None else f"{prefix}.{node.attr}".lstrip(".")


def used() -> Iterator[str]:
    for node in ast.walk(tree()):
        if isinstance(node, ast.Attribute) and (name := full_name(node)):
            yield name
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
            owner, name = node.args[0], node.args[1]
            if isinstance(name, ast.Constant):
                kind = full_name(owner) if isinstance(owner, ast.Attribute) else None
                yield f"{kind or RECEIVERS[ast.unparse(owner)]}.{name.value}"


def known() -> set[str]:
    names = {*TABLE["members"], *TABLE["enums"]}
    return names | {name.rpartition(".")[0] for name in names} - {""}


def test_run_py_is_python_3_8_and_imports_only_numpy_and_the_standard_library() -> None:
    found = set()
    for node in ast.walk(tree()):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert found - sys.stdlib_module_names == {"numpy"}


def test_every_name_that_run_py_uses_is_in_the_table_and_the_table_has_no_others() -> None:
    names = set(used())
    assert names - known() == {"ILogger.__init__"}
    leaves = {*TABLE["members"], *TABLE["enums"]}
    assert leaves - names - OF_THE_FAKE_ONLY == OF_THE_DEVICE_RUNNER


def test_a_name_that_some_version_lacks_is_used_behind_a_question_only() -> None:
    lacking = {name for name, numbers in TABLE["enums"].items() if -1 in numbers}
    lacking |= set(TABLE["since"])
    assert set(used()) & lacking == GUARDED


def test_every_call_has_arguments_that_the_table_allows() -> None:
    seen = 0
    for node in ast.walk(tree()):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        form = TABLE["members"].get(full_name(node.func), "")
        if form.startswith("("):
            parts = [part for part in form.strip("()").split(",") if part]
            least = sum("=" not in part for part in parts)
            count = len(node.args) + len(node.keywords)
            spread = any(isinstance(value, ast.Starred) for value in node.args)
            own = ast.unparse(node.func) == "trt.ILogger.__init__"
            assert own or spread or least <= count <= len(parts), ast.unparse(node)
            seen += 1
    assert seen > 25


@pytest.mark.skipif(not FACTS.is_file(), reason="the facts about the bindings are not here")
def test_the_table_says_what_the_bindings_say() -> None:
    lines = [line.split() for line in FACTS.read_text().splitlines()]
    columns = lines[0][1:]
    places = [
        next(k for k, version in enumerate(TABLE["versions"]) if same(version, column))
        for column in columns
    ]
    compared = 0
    for name, *facts in lines[1:]:
        for place, fact in zip(places, facts, strict=True):
            if name in TABLE["enums"]:
                number = TABLE["enums"][name][place]
                assert (str(number) if number >= 0 else "-") == fact, (name, columns)
                compared += 1
            if name in TABLE["members"]:
                first = TABLE["since"].get(name, TABLE["versions"][0])
                there = place >= TABLE["versions"].index(first)
                assert there == (fact == "y"), (name, columns)
                compared += 1
    assert compared > 200


def same(version: str, column: str) -> bool:
    return version.split(".")[:2] == column.split(".")[:2]


# ------------------------------------------------------------------ the fake


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def of(version: str) -> ModuleType:
        monkeypatch.syspath_prepend(fake_tensorrt.install(tmp_path / version, version))
        sys.modules.pop("tensorrt", None)
        return __import__("tensorrt")

    yield of
    sys.modules.pop("tensorrt", None)


def made(trt: Any, flags: int, path: Path) -> tuple[Any, Any, Any, list[str], Any]:
    """A builder, a network read from a file, a config, what is logged, and the parser."""
    said: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            said.append(message)

    builder = trt.Builder(Log())
    net = builder.create_network(flags)
    read = trt.OnnxParser(net, Log())
    if not read.parse_from_file(str(path)):
        said += [read.get_error(n).desc() for n in range(read.num_errors)]
    return builder, net, builder.create_builder_config(), said, read


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(network("fp16", batch=1).SerializeToString())
    return path


def test_the_fake_has_no_name_that_its_version_lacks(fake: Any, graph: Path) -> None:
    old, new = fake("8.5.2"), fake("11.4.0")
    config = made(old, 1, graph)[2]
    for read in (
        lambda: config.builder_optimization_level,
        lambda: old.NetworkDefinitionCreationFlag.STRONGLY_TYPED,
        lambda: new.BuilderFlag.FP16,
        lambda: new.NetworkDefinitionCreationFlag.EXPLICIT_BATCH,
        lambda: config.max_workspace_size,
    ):
        with pytest.raises(AttributeError):
            read()
    with pytest.raises(AttributeError):
        config.builder_optimization_level = 3


def test_the_fake_refuses_wrong_arguments_as_the_bindings_do(fake: Any, graph: Path) -> None:
    trt = fake("10.3.0")
    builder, net, config, *_ = made(trt, 2, graph)
    for call in (
        lambda: config.set_flag(0),  # a number is no flag
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        lambda: config.set_memory_pool_limit(trt.BuilderFlag.TF32, 1),
        lambda: builder.build_serialized_network(net),
        lambda: builder.create_network(flag=1),
        lambda: builder.create_network(1 << 7),
        lambda: trt.Runtime(None),
        trt.ICudaEngine,
    ):
        with pytest.raises(TypeError):
            call()


def test_the_fake_wants_an_explicit_batch_before_10(fake: Any, graph: Path) -> None:
    for version, flags, fits in (("8.6.1", 0, False), ("8.6.1", 1, True), ("10.0.1", 0, True)):
        said = made(fake(version), flags, graph)[3]
        assert any("EXPLICIT_BATCH" in text for text in said) is not fits


def test_the_fake_builds_no_typed_network_with_a_weak_flag(fake: Any, graph: Path) -> None:
    trt = fake("10.3.0")
    for flags, builds in ((0, True), (2, False)):
        builder, net, config, said, _parser = made(trt, flags, graph)
        config.set_flag(trt.BuilderFlag.FP16)
        assert (builder.build_serialized_network(net, config) is not None) is builds
        assert any("!config.getFlag(BuilderFlag::kFP16)" in text for text in said) is not builds

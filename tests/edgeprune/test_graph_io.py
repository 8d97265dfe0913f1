"""A stored graph is data: reading one must never run what it names."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from edgeprune.capture import Captured, load, load_tensors, save_tensors, state
from edgeprune.errors import ModelError
from edgeprune.graph_io import graph_from_json, graph_to_json, is_plain_name

from .models import TINY

CaptureOf = Callable[..., Captured]
Entries = list[dict[str, Any]]


@pytest.fixture
def stored(capture_of: CaptureOf) -> tuple[Entries, frozenset[str]]:
    captured = capture_of("Transformer")
    entries = json.loads(json.dumps(graph_to_json(captured.module.graph)))
    return entries, frozenset(state(captured.module))


@pytest.mark.parametrize("name", TINY)
def test_a_graph_survives_json(name: str, capture_of: CaptureOf) -> None:
    captured = capture_of(name)
    entries = graph_to_json(captured.module.graph)
    again = graph_from_json(json.loads(json.dumps(entries)), state(captured.module).keys())
    assert graph_to_json(again) == entries
    again.lint()


@pytest.mark.parametrize(
    "constant",
    [1, 0.1, float("inf"), True, None, "same", torch.float16, torch.channels_last, torch.strided,
     torch.device("cpu"), [1, [2.5]], (1, 2), slice(1, None, 2)],
    ids=str,
)  # fmt: skip
def test_constants_survive_json(constant: object) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.relu.default, (x, constant)))
    entries = json.loads(json.dumps(graph_to_json(graph)))
    (node,) = (n for n in graph_from_json(entries, ()).nodes if n.op == "call_function")
    assert node.args[1] == constant
    assert type(node.args[1]) is type(graph.output_node().args[0].args[1])


def test_what_has_no_json_form_is_refused() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.relu.default, (graph.placeholder("x"), 1j)))
    with pytest.raises(ModelError, match="complex cannot be stored"):
        graph_to_json(graph)


def test_a_graph_that_calls_python_is_refused() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(print, (graph.placeholder("x"),)))
    with pytest.raises(ModelError, match=r"'<built-in function print>' .* cannot be stored"):
        graph_to_json(graph)


def _first(entries: Entries, op: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["op"] == op)


FORGERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "a function of Python": ("call_function", {"target": "os.system"}),
    "a builtin": ("call_function", {"target": "builtins.eval"}),
    "a file": ("call_function", {"target": "aten.from_file.default"}),
    "another library": ("call_function", {"target": "prims.add.default"}),
    "an attribute of torch.ops": ("call_function", {"target": "aten.__class__.__init__"}),
    "an operator that does not exist": ("call_function", {"target": "aten.nothing.default"}),
    "a method": ("call_function", {"op": "call_method", "target": "tofile"}),
    "a module": ("call_function", {"op": "call_module", "target": "conv"}),
    "code in a name": ("placeholder", {"target": "x=__import__('os').system('touch owned')"}),
    "code in an attribute": ("get_attr", {"target": 'x"), __import__("os").abort(), ("'}),
    "a tensor that is not there": ("get_attr", {"target": "nowhere"}),
    "code in a keyword": ("call_function", {"kwargs": {"a=print(1), b": 1}}),
    "another thing of torch": ("call_function", {"args": [{"torch": "load"}]}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_graph_is_refused(name: str, stored: tuple[Entries, frozenset[str]]) -> None:
    entries, tensors = copy.deepcopy(stored[0]), stored[1]
    op, change = FORGERIES[name]
    _first(entries, op).update(change)
    with pytest.raises(ModelError, match=r"stored graph"):
        graph_from_json(entries, tensors)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("conv.weight", True),
        ("blocks.block1-0.1x1.größe", True),
        ("a b/c+d:e", True),
        ("class.weight", False),
        ("a..b", False),
        ("", False),
        ('a"b', False),
        ("a\\b", False),
        ("a\nb", False),
        ("a(b)", False),
    ],
)
def test_names_that_generated_code_can_hold(name: str, plain: bool) -> None:
    assert is_plain_name(name) == plain


def test_loaded_tensors_lie_in_memory_of_their_own(capture_of: CaptureOf, tmp_path: Path) -> None:
    capture_of("Transformer").save(tmp_path)
    tensors = load_tensors(tmp_path / "weights.safetensors")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values())  # as torch allocates


def test_a_forged_tensor_name_is_refused(capture_of: CaptureOf, tmp_path: Path) -> None:
    forged = 'a"), __import__("os").abort(), ("b'
    capture_of("Chain").save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    tensors = load_tensors(weights)
    tensors[forged] = tensors.pop("conv1.weight")
    save_tensors(weights, tensors)
    graph = tmp_path / "graph.json"
    document = json.loads(graph.read_text())
    for entry in document["nodes"]:
        entry["target"] = forged if entry["target"] == "conv1.weight" else entry["target"]
    document["trainable"].remove("conv1.weight")
    graph.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="no captured model has such a name"):
        load(tmp_path)

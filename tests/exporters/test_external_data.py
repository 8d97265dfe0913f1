"""Weights in a second file: written beside the graph, and read from nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import Tensor

from edgeprune import Captured
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, TorchModel
from edgeprune_exporters.external_data import load_graph, save_graph
from edgeprune_exporters.onnx import OnnxExporter, check_file

DATA = "model.onnx.data"


@pytest.fixture(scope="module")
def job(vit: Captured, images: Tensor) -> Job:
    return Job(model=TorchModel(vit), target=load_target("cpu"), images=Images(parity=images))


@pytest.fixture
def written(job: Job, tmp_path: Path) -> Path:
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    assert save_graph(job.graph, path, single_file_bytes=100) == ("model.onnx", DATA)
    return path


def entries(path: Path) -> list[dict[str, str]]:
    graph = onnx.load(path, load_external_data=False)
    tensors = [tensor for tensor in graph.graph.initializer if tensor.external_data]
    return [{each.key: each.value for each in tensor.external_data} for tensor in tensors]


def rewrite(path: Path, **texts: str) -> None:
    """Change what the first tensor outside the file says about its place."""
    graph = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.external_data)
    for entry in tensor.external_data:
        entry.value = texts.get(entry.key, entry.value)
    path.write_bytes(graph.SerializeToString())


def test_weights_beyond_the_limit_of_one_file_lie_beside_it_and_are_proven(
    job: Job, tmp_path: Path
) -> None:
    artifact = OnnxExporter(single_file_bytes=100).export(job, "fp32", tmp_path)
    assert artifact.files == ("model.onnx", DATA)
    assert artifact.proof.ok
    assert (tmp_path / DATA).stat().st_size > (tmp_path / "model.onnx").stat().st_size


def test_weights_begin_on_pages_and_end_within_the_file(written: Path) -> None:
    size = written.with_name(DATA).stat().st_size
    for entry in entries(written):
        assert entry["location"] == DATA
        assert int(entry["offset"]) % 4096 == 0
        assert int(entry["offset"]) + int(entry["length"]) <= size


def test_what_is_read_is_what_was_written(job: Job, written: Path) -> None:
    wanted = {each.name: each for each in job.graph.graph.initializer}
    found = load_graph(written)
    assert [each.name for each in found.graph.initializer] == list(wanted)
    for each in found.graph.initializer:
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(each), onnx.numpy_helper.to_array(wanted[each.name])
        )
    assert found.graph.node == job.graph.graph.node
    assert found.opset_import == job.graph.opset_import


def test_writing_beside_leaves_the_shared_graph_whole(job: Job, tmp_path: Path) -> None:
    before = job.graph.SerializeToString(deterministic=True)
    save_graph(job.graph, tmp_path / "model.onnx", single_file_bytes=100)
    assert job.graph.SerializeToString(deterministic=True) == before


def test_two_writings_are_equal_byte_for_byte(job: Job, written: Path, tmp_path: Path) -> None:
    save_graph(job.graph, tmp_path / "model.onnx", single_file_bytes=100)
    for name in ("model.onnx", DATA):
        assert written.with_name(name).read_bytes() == (tmp_path / name).read_bytes()


def test_weights_are_not_written_through_a_link(job: Job, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / DATA).symlink_to(victim)
    with pytest.raises(FileExistsError):
        save_graph(job.graph, tmp_path / "model.onnx", single_file_bytes=100)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "sub/model.onnx.data", "..", "", "C:\\secret", "a\\b"]
)
def test_a_place_that_is_not_beside_the_file_is_refused(location: str, written: Path) -> None:
    (written.parent.parent / "secret").write_bytes(bytes(100_000))
    rewrite(written, location=location)
    with pytest.raises(ExportError, match="only a file beside it is allowed"):
        load_graph(written)
    with pytest.raises(ExportError, match="only a file beside it is allowed"):
        check_file(written, 20)


def test_missing_weights_are_named(written: Path) -> None:
    written.with_name(DATA).unlink()
    with pytest.raises(ExportError, match=r"'model.onnx.data' that holds them is not beside it"):
        load_graph(written)


def _symbolic(data: Path, elsewhere: Path) -> None:
    data.symlink_to(elsewhere)


def _hard(data: Path, elsewhere: Path) -> None:
    data.hardlink_to(elsewhere)


def _folder(data: Path, elsewhere: Path) -> None:
    data.mkdir()


@pytest.mark.parametrize("link", [_symbolic, _hard, _folder])
def test_a_link_or_a_folder_in_place_of_the_weights_is_refused(
    link: Callable[[Path, Path], None], written: Path
) -> None:
    data, elsewhere = written.with_name(DATA), written.parent.parent / "elsewhere"
    data.replace(elsewhere)
    link(data, elsewhere)
    with pytest.raises(ExportError, match="is a link, or no plain file"):
        load_graph(written)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"offset": "-4096"}, "lie outside"),
        ({"offset": "99999999"}, r"bytes 99999999 to \d+ lie outside 'model.onnx.data'"),
        ({"offset": "many"}, "malformed"),
        ({"length": "7"}, "7 bytes are given for values that take"),
    ],
)
def test_a_place_outside_the_bytes_of_the_file_is_refused(
    texts: dict[str, str], message: str, written: Path
) -> None:
    rewrite(written, **texts)
    with pytest.raises(ExportError, match=f"the weights of '.*' are not read: .*{message}"):
        load_graph(written)


def test_weights_of_an_operator_within_are_checked_too(tmp_path: Path) -> None:
    inside = onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [1.0])
    inside.ClearField("float_data")
    inside.data_location = onnx.TensorProto.EXTERNAL
    inside.external_data.add(key="location", value="../secret")
    node = onnx.helper.make_node("Constant", [], ["y"], value=inside)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output]))
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ExportError, match="weights of 'c' are not read"):
        load_graph(tmp_path / "model.onnx")

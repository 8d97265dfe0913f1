"""What is opened to be measured, and what is known of it."""

import json
from pathlib import Path

import numpy as np
import openvino
import pytest
from PIL import Image

from edgeprune.errors import BundleError, DataError, ModelError, UsageError
from edgeprune.pipeline.probing import Probe, probe
from edgeprune.pipeline.subject_files import texts_in
from edgeprune.pipeline.subject_images import image_shape, open_images, preparation, timed_inputs
from edgeprune.pipeline.subjects import open_subject
from edgeprune.progress import Silent
from edgeprune_benchmarks.hosts import LocalHost
from edgeprune_benchmarks.measurement import MeasureSettings
from edgeprune_benchmarks.record import Counts

from .bench_case import CLASSES, EDGE, HOW, rewrite, write_bundle, write_net

ANY_SIZE = Probe(shape=(None, 3, None, None), classes=3)
FIXED = Probe(shape=(None, 3, EDGE, EDGE), classes=3)


def test_a_bundle_gives_either_model_with_what_it_tells_of_it(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    dense, slim = (open_subject(bundle, role=role) for role in ("dense", "slim"))
    assert (dense.name, slim.name) == ("tiny, dense", "tiny, slim")
    assert slim.counts == Counts(params=100, macs=200)
    assert slim.classes == CLASSES
    assert slim.preprocessing == HOW
    assert slim.metrics is not None
    assert dense.metrics is not None
    assert dense.metrics.accuracy == 1.0
    assert dense.subject.artifact.parts[-4:] == ("artifacts", "dense", "onnx", "model.onnx")


def test_of_several_artifacts_the_targets_precision_is_the_default(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    half = write_net(bundle / "artifacts" / "onnx-fp16" / "model.onnx", 6)
    name = half.relative_to(bundle).as_posix()
    file = {"path": name, "bytes": half.stat().st_size, "in_bundle": True}
    first = manifest["artifacts"][0] | {"precision": "fp16", "files": [file]}
    rewrite(bundle, artifacts=[first, *manifest["artifacts"]])
    assert open_subject(bundle).subject.artifact.parent.name == "onnx"
    assert open_subject(bundle, precision="fp16").subject.artifact == half


@pytest.mark.parametrize("damage", ["gone", "longer", "other"])
def test_no_file_of_a_bundle_is_opened_that_is_not_the_one_it_lists(
    tmp_path: Path, damage: str
) -> None:
    bundle = write_bundle(tmp_path / "slim")
    path = bundle / "artifacts" / "onnx" / "model.onnx"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content + b"x" if damage == "longer" else content[::-1])
    with pytest.raises(BundleError, match="is not what bundle"):
        open_subject(bundle)


def test_a_dense_artifact_that_changed_is_not_compared_with(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    path = open_subject(bundle, role="dense").subject.artifact
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BundleError, match="it has"):
        open_subject(bundle, role="dense")


def test_a_file_tells_its_classes_and_preparation_in_both_formats(tmp_path: Path) -> None:
    source = write_net(tmp_path / "net.onnx", told=True)
    graph = openvino.Core().read_model(source)
    for section in list(graph.rt_info.keys()):
        del graph.rt_info[section]
    for key, text in texts_in(source).items():
        graph.set_rt_info(text, ["edgeprune", key])
    openvino.save_model(graph, tmp_path / "net.xml", compress_to_fp16=False)
    for name in ("net.onnx", "net.xml"):
        opened = open_subject(tmp_path / name)
        assert opened.classes == CLASSES
        assert opened.preprocessing == HOW


def test_an_onnx_file_runs_in_either_runtime(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx")
    with LocalHost() as host:
        for runtime in ("onnxruntime", "openvino"):
            opened = open_subject(path, runtime=runtime)
            assert probe(opened, MeasureSettings(), host) == FIXED


@pytest.mark.parametrize("content", ["", "<net", "[]", "{}"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    for name in ("net.xml", "recipe.json"):
        (tmp_path / name).write_text(content)
    if content not in ("[]", "{}"):
        with pytest.raises(ModelError, match=r"net\.xml"):
            open_subject(tmp_path / "net.xml")
    with pytest.raises(ModelError, match=r"recipe\.json"):
        open_subject(tmp_path / "recipe.json")


def test_a_files_own_words_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx", told=True)
    path.write_bytes(path.read_bytes().replace(b'["0", "1", "2"]', b'["0", "1", "2"}'))
    with pytest.raises(ModelError, match=r"edgeprune\.classes"):
        open_subject(path)


def test_images_are_those_of_the_test_split_else_golden_else_noise(tmp_path: Path) -> None:
    bundle = open_subject(write_bundle(tmp_path / "slim"))
    golden, words = timed_inputs(bundle, FIXED, batch=16, test=None, seed=0)
    assert golden.shape == (16, 3, EDGE, EDGE)
    assert np.array_equal(golden[0], golden[4])
    assert "golden" in words
    bare = open_subject(write_net(tmp_path / "net.onnx"))
    noise, words = timed_inputs(bare, FIXED, batch=1, test=None, seed=0)
    again, _ = timed_inputs(bare, FIXED, batch=1, test=None, seed=0)
    assert np.array_equal(noise, again)
    assert "--data" in words


def test_a_file_for_any_size_of_images_has_to_say_which(tmp_path: Path) -> None:
    bare = open_subject(write_net(tmp_path / "bare.onnx"))
    with pytest.raises(ModelError, match="write the file with one size"):
        image_shape(bare, ANY_SIZE)
    told = open_subject(write_net(tmp_path / "told.onnx", told=True))
    assert image_shape(told, ANY_SIZE) == (3, EDGE, EDGE)


def test_a_file_that_says_nothing_gets_images_as_imagenets_and_a_note(tmp_path: Path) -> None:
    how, note = preparation(open_subject(write_net(tmp_path / "net.onnx")), FIXED)
    assert how == HOW
    assert note is not None
    assert "as ImageNet's are" in note


def test_what_a_file_says_of_its_images_has_to_fit_its_input(tmp_path: Path) -> None:
    told = open_subject(write_net(tmp_path / "net.onnx", told=True))
    with pytest.raises(ModelError, match=r"it takes \('\?', 3, 16, 16\)|it takes \(3, 16, 16\)"):
        preparation(told, Probe(shape=(None, 3, 16, 16), classes=3))


def test_a_table_without_test_images_is_refused(tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for number in range(6):
        name = f"{number}.png"
        Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(tmp_path / name)
        rows.append(f"{name},{number % 2},train")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="give train, val and test"):
        open_images(str(tmp_path / "table.csv"), seed=0, skip_corrupt=False, reporter=Silent())


def test_a_runtime_that_is_none_is_refused_with_the_choice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="openvino, tensorrt, torch"):
        open_subject(write_net(tmp_path / "net.onnx"), runtime="trt")

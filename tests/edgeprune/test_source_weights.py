import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.errors import WeightsError
from edgeprune.files import sha256
from edgeprune.source import build_model, model_source, open_model
from edgeprune.weights import load_weights, read_weights


def _timm(classes: int = 2, *, seed: int = 0, **options: int) -> nn.Module:
    return build_model(model_source("test_resnet", num_classes=classes, **options), seed=seed)


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class Attack:
    """Would create a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_come_back_bit_for_bit(tmp_path: Path, ending: str) -> None:
    saved = _timm(seed=1).state_dict()
    path = tmp_path / f"weights{ending}"
    save_file(saved, path) if ending == ".safetensors" else torch.save(saved, path)
    model = _timm(seed=2)
    report = load_weights(model, path)
    assert _equal(saved, model.state_dict())
    assert report.loaded == len(saved)
    assert (report.fresh, report.notes) == ((), ())
    assert (report.file, report.sha256) == (path.name, sha256(path))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_wrappers_and_prefixes_are_seen_through(tmp_path: Path, wrapper: str, prefix: str) -> None:
    saved = _timm(seed=1).state_dict()
    named = {prefix + name: tensor for name, tensor in saved.items()}
    torch.save({wrapper: named, "epoch": 3, "arch": "test_resnet"}, tmp_path / "a.pt")
    model = _timm(seed=2)
    report = load_weights(model, tmp_path / "a.pt")
    assert _equal(saved, model.state_dict())
    assert f"under '{wrapper}'" in report.notes[0]


@pytest.mark.parametrize("bare", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, bare: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    content = {"conv1.weight": Attack(marker)}
    if bare:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"'evil.pt' was not opened: .*mkdir.*safetensors"):
        load_weights(_timm(), path)
    assert not marker.exists()
    pickle.loads(path.read_bytes()) if bare else torch.load(path, weights_only=False)  # noqa: S301
    assert marker.exists(), "the attack is real"


def test_a_whole_pickled_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match=r"torch.nn.modules.linear.Linear.*state_dict"):
        read_weights(tmp_path / "whole.pt")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_damaged_file_is_refused(tmp_path: Path, ending: str) -> None:
    whole, part = tmp_path / f"whole{ending}", tmp_path / f"part{ending}"
    tensors = {"a": torch.ones(4000)}
    save_file(tensors, whole) if ending == ".safetensors" else torch.save(tensors, whole)
    part.write_bytes(whole.read_bytes()[:9000])
    with pytest.raises(WeightsError, match=rf"'part{ending}' .*not a whole"):
        read_weights(part)


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "log.pt")
    with pytest.raises(WeightsError, match="holds no tensors by name; its keys are 'epoch'"):
        read_weights(tmp_path / "log.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        read_weights(tmp_path / "list.pt")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(WeightsError, match=r"ending '.onnx': give .safetensors"):
        read_weights(tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="no weights at"):
        read_weights(tmp_path / "gone.pt")


def test_a_head_of_another_size_is_replaced_and_the_rest_is_loaded(tmp_path: Path) -> None:
    saved = _timm(1000, seed=1).state_dict()
    save_file(saved, tmp_path / "w.safetensors")
    built = open_model(
        model_source("test_resnet", num_classes=3), weights=tmp_path / "w.safetensors", seed=2
    )
    own = built.model.state_dict()
    assert built.trained == "backbone"
    assert "head of 1000 classes: 'fc' was replaced by a fresh one of 3" in built.notes[0]
    assert all(torch.equal(own[n], saved[n]) for n in own if not n.startswith("fc."))
    assert built.source.weights == "w.safetensors"
    assert built.source.sha256 == sha256(tmp_path / "w.safetensors")


def test_a_fresh_head_begins_nearly_undecided_and_differs_by_the_seed(tmp_path: Path) -> None:
    name = "test_efficientnet"  # whose head timm draws with a deviation of 0.4 for two classes
    saved = build_model(model_source(name, num_classes=9)).state_dict()
    save_file(saved, tmp_path / "w.safetensors")
    heads = []
    for seed in (1, 2):
        built = open_model(
            model_source(name, num_classes=2), weights=tmp_path / "w.safetensors", seed=seed
        )
        heads.append(built.model.get_parameter("classifier.weight").detach())
        assert float(heads[-1].std()) == pytest.approx(0.01)
        assert not built.model.get_parameter("classifier.bias").any()
    assert not torch.equal(*heads)


def test_a_backbone_without_a_head_leaves_the_head_fresh(tmp_path: Path) -> None:
    saved = {n: t for n, t in _timm(seed=1).state_dict().items() if not n.startswith("fc.")}
    save_file(saved, tmp_path / "w.safetensors")
    report = load_weights(_timm(), tmp_path / "w.safetensors")
    assert report.fresh == ("fc.weight", "fc.bias")
    assert "has no head" in report.notes[0]


def test_the_head_of_a_model_that_timm_does_not_know_is_its_last_linear(tmp_path: Path) -> None:
    save_file(
        nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 9)).state_dict(), tmp_path / "w.safetensors"
    )
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    assert load_weights(model, tmp_path / "w.safetensors").fresh == ("1.weight", "1.bias")
    other = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 9))
    with pytest.raises(WeightsError, match=r"0.weight is \(6, 4\), the model's is \(7, 4\)"):
        load_weights(other, tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_are_named_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    saved = _timm(seed=1).state_dict()
    saved["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    saved["wings.weight"] = saved.pop("layer1.0.bn1.weight")
    save_file(saved, tmp_path / "w.safetensors")
    model = _timm(seed=2)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "differing in shape: 1 (layer1.0.conv1.weight is (1, 2, 3, 3), the model's is" in message
    assert "missing: 1 (layer1.0.bn1.weight)" in message
    assert "not in the model: 1 (wings.weight)" in message
    assert _equal(model.state_dict(), _timm(seed=2).state_dict())


def test_another_architecture_is_told_by_its_names(tmp_path: Path) -> None:
    save_file({"blocks.0.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"none of its 1 tensors .*blocks.0.weight.*conv1"):
        load_weights(_timm(), tmp_path / "w.safetensors")


def test_other_input_channels_are_told_with_what_to_do(tmp_path: Path) -> None:
    save_file(_timm(seed=1).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="reads 3 input channels, the model's 1: build"):
        load_weights(_timm(in_chans=1), tmp_path / "w.safetensors")


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    saved = _timm().state_dict()
    saved["fc.weight"][0, 0] = torch.nan
    save_file(saved, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"NaN or infinity in 1 \(fc.weight\)"):
        load_weights(_timm(), tmp_path / "w.safetensors")


def test_position_embeddings_are_resized_to_the_asked_image(tmp_path: Path) -> None:
    saved = build_model(model_source("test_vit", num_classes=2)).state_dict()
    save_file(saved, tmp_path / "w.safetensors")
    source = model_source("test_vit", num_classes=2, image_size=64)
    built = open_model(source, weights=tmp_path / "w.safetensors")
    assert built.trained == "all"
    assert "converted to this model: 1 (pos_embed)" in built.notes[0]
    own = built.model.state_dict()
    assert own["pos_embed"].shape != saved["pos_embed"].shape
    assert torch.equal(own["pos_embed"][:, 0], saved["pos_embed"][:, 0]), "the class token's"

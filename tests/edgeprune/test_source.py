import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from edgeprune.data import preprocessing_from_timm
from edgeprune.errors import ModelError, UsageError, WeightsError
from edgeprune.source import ModelSource, build_model, model_source, open_model, output_problem

FACTORY = """
from dataclasses import dataclass
from pathlib import Path
import beside
from torch import nn

@dataclass
class Shape:
    width: int = 4

def build(num_classes, width=4):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes * beside.FACTOR * width // 4))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

def broken():
    raise RuntimeError("no such disk\\nsecond line")

def empty():
    return None
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("FACTOR = 1\n")
    path = tmp_path / "my_net.py"
    path.write_text(FACTORY)
    return path


def test_a_timm_model_has_the_asked_sizes() -> None:
    model = build_model(model_source("test_resnet", num_classes=3, in_chans=1))
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    assert not model.training


def test_the_seed_decides_the_initialisation_and_leaves_other_random_numbers_alone() -> None:
    source = model_source("test_resnet", num_classes=2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_model(source, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.0.weight"], other["conv1.0.weight"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("restnet18", "resnet18"),
        ("mobilnetv2_100", "mobilenetv2_100"),
        ("resnet18.a1_in2k", "a1_in1k"),
        ("nets/mine.py", "nets/mine.py:build"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        model_source(name, num_classes=2)


def test_arguments_that_the_model_does_not_take_are_refused() -> None:
    source = model_source("test_resnet", num_classes=2, arguments={"wings": 2})
    with pytest.raises(ModelError, match=r"timm cannot build 'test_resnet': .*wings"):
        build_model(source)


def test_a_transformer_is_built_for_the_asked_image_size() -> None:
    built = open_model(model_source("deit_tiny_patch16_224", num_classes=2, image_size=64))
    assert built.config["input_size"] == (3, 64, 64)
    assert output_problem(built.model, built.config, 2) is None


def test_the_configuration_of_images_is_timms_with_the_asked_channels() -> None:
    built = open_model(model_source("test_vit", num_classes=2, in_chans=1))
    theirs = timm.get_pretrained_cfg("test_vit")
    how = preprocessing_from_timm(built.config)
    assert how.size == theirs.input_size[1:]
    assert how.channels == 1
    assert how.crop_pct == theirs.crop_pct
    assert built.config["mean"] == tuple(theirs.mean)


def test_a_factory_in_a_file_is_called_with_the_arguments_it_names(factory: Path) -> None:
    source = model_source(f"{factory}:build", num_classes=3, arguments={"width": 8})
    assert build_model(source)(torch.zeros(2, 3, 2, 2)).shape == (2, 6)


def test_a_factory_in_a_module_is_imported_from_the_working_folder(
    factory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(factory.parent)
    built = open_model(model_source("my_net:fixed", num_classes=5))
    assert preprocessing_from_timm(built.config).size == (224, 224)
    assert built.trained == "nothing"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "raised RuntimeError: no such disk$"),
        ("empty", "returned a NoneType, not an nn.Module"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_factory_that_fails_is_reported_in_one_line(
    factory: Path, function: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(model_source(f"{factory}:{function}", num_classes=2))


def test_a_factory_that_is_not_there_is_reported() -> None:
    with pytest.raises(ModelError, match=r"there is no file 'gone.py'"):
        build_model(model_source("gone.py:build", num_classes=2))
    with pytest.raises(ModelError, match="No module named 'gone'"):
        build_model(model_source("gone.nets:build", num_classes=2))


def test_another_number_of_outputs_is_told(factory: Path) -> None:
    config = {"input_size": (3, 2, 2)}
    fixed = build_model(model_source(f"{factory}:fixed", num_classes=2))
    assert "returns (1, 5)" in (output_problem(fixed, config, 2) or "")
    assert output_problem(fixed, config, 5) is None
    assert "fails on an input" in (output_problem(fixed, {"input_size": (1, 2, 2)}, 5) or "")


def test_a_stored_source_reads_back_and_names_no_folder(factory: Path) -> None:
    source = model_source(f"{factory}:build", num_classes=3, in_chans=1, image_size=64)
    document = json.loads(json.dumps(source.to_dict()))
    assert str(factory.parent) not in json.dumps(document)
    assert ModelSource.from_dict(document) == replace(source, name="my_net.py:build")
    with pytest.raises(ModelError, match="damaged"):
        ModelSource.from_dict(document | {"colour": "blue"})


def test_pretrained_weights_of_a_factory_are_refused(factory: Path) -> None:
    with pytest.raises(UsageError, match="give --weights"):
        model_source(f"{factory}:build", num_classes=2, pretrained=True)


def test_weights_that_cannot_be_fetched_are_told_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> nn.Module:
        raise OSError("no route to host\nlong trace")

    monkeypatch.setattr(timm, "create_model", offline)
    source = model_source("resnet18", num_classes=2, pretrained=True)
    with pytest.raises(WeightsError, match=r"no route to host\): give them with --weights FILE"):
        build_model(source)


def test_a_model_without_pretrained_weights_says_so() -> None:
    source = model_source("resnet10t", num_classes=2)
    bare = next(
        name
        for name in timm.list_models()
        if not timm.get_pretrained_cfg(name).has_weights and "resnet" in name
    )
    with pytest.raises(WeightsError, match=f"timm has no weights for '{bare}'"):
        build_model(replace(source, name=bare, pretrained=True))

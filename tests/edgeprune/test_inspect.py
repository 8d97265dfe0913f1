"""``edgeprune inspect``: what it finds, and how that reads in a terminal and in a pipe."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.capture import Captured, capture, trainable
from edgeprune.cut import cut
from edgeprune.inspection import inspect
from edgeprune.listing import lines
from edgeprune.pipeline import InspectSettings, inspect_model
from edgeprune.pipeline.inspecting import Inspected

from .models import CLASSES, TINY, images, random_plan

CaptureOf = Callable[..., Captured]
Run = Callable[..., tuple[int, str, str]]

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, 8, 3)
        self.fc = nn.Linear(8 * 36, num_classes)
    def forward(self, x):
        return {"scores": self.fc(self.conv(x).relu().flatten(1)), "means": x.mean((2, 3))}

def build(num_classes, in_chans):
    return Net(num_classes, in_chans)

def whole(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, num_classes))
"""


@pytest.fixture
def run(edgeprune: Run, tmp_path: Path) -> Run:
    """Return what inspects in a folder with net.py, and gives exit code, stdout and stderr."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    return partial(edgeprune, "inspect")


def inspected(dense: Captured) -> Inspected:
    found = inspect(dense)
    return Inspected(
        model="net",
        weights="of chance",
        input=(3, 12, 12),
        found=found,
        listed=frozenset(group.name for group in found.groups),
        estimate=None,
        seconds={"capture": 1.5, "analysis": 0.25},
    )


# --- what is found --------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_it_finds_the_groups_and_counts_of_the_analysis(name: str, capture_of: CaptureOf) -> None:
    dense = capture_of(name)
    analysis, found = analyse(dense), inspect(dense)
    assert [(g.name, g.kind, g.size, g.readers) for g in found.groups] == [
        (g.name, g.kind, g.size, g.readers) for g in analysis.groups
    ]
    assert found.params == sum(p.numel() for p in dense.module.parameters())
    assert found.macs == analysis.count_macs()
    assert sum(kind["units"] for kind in found.kinds.values()) == sum(
        group.size for group in found.groups
    )


def test_a_group_owns_what_goes_with_each_of_its_units(capture_of: CaptureOf) -> None:
    owned = {group.name: group.params for group in inspect(capture_of("Chain")).groups}
    conv2 = 12 * 8 * 9
    assert owned["conv1"] == 8 * (3 * 9 + 1 + 2) + conv2  # filters, bias, BatchNorm
    assert owned["conv2"] == conv2 + 12 * 2 + 16 * 12 * 9
    assert owned["hidden"] == 16 * (12 * 9 + 1) + CLASSES * 16


def test_what_can_be_cut_is_what_a_plan_makes_smaller(capture_of: CaptureOf) -> None:
    for name in ("Chain", "Transformer", "Concatenated"):
        dense = capture_of(name)
        slim = cut(dense, random_plan(dense))
        after = dict(slim.module.named_parameters())
        shrunk = sum(
            p.numel() for n, p in dense.module.named_parameters() if p.shape != after[n].shape
        )
        assert inspect(dense).cuttable == shrunk, name
        assert shrunk < inspect(dense).params


def test_frozen_parameters_are_grouped_by_the_operator_in_the_way() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).sort(1).values

    tail = (nn.Conv2d(6, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 40))
    found = inspect(capture(nn.Sequential(Sorted(), *tail).eval(), images(2)))
    assert [group.name for group in found.groups] == ["1"]
    by = {each.reason: each for each in found.obstacles}
    (sort,) = [reason for reason in by if "aten.sort" in reason]
    assert "at 0" in sort
    assert by[sort].tensors == ("0.conv.weight", "0.conv.bias", "1.weight")
    assert by[sort].params == 6 * 3 + 6 + 8 * 6
    assert by[sort].stuck == 6 * 3 + 6
    assert by["model output"].tensors == ("4.weight", "4.bias")
    assert by["model output"].stuck == 40
    assert found.obstacles[:2] == (by["model output"], by[sort])  # the most stuck first
    assert found.cuttable == found.params - 6 * 3 - 6 - 40


def test_a_model_of_which_nothing_can_be_cut_says_why() -> None:
    dense = capture(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval(), images(2))
    listing = "\n".join(lines(inspected(dense)))
    assert "nothing can be cut: no channel group" in listing
    assert "model output" in listing
    assert "read by" not in listing


def test_only_the_seconds_differ_from_run_to_run() -> None:
    asked = InspectSettings(model="test_vit", num_classes=5, image_size=64)
    documents = [inspect_model(asked).to_dict() for _ in range(2)]
    seconds = [document.pop("seconds") for document in documents]
    assert documents[0] == documents[1]
    assert all(value > 0 for pair in seconds for value in pair.values())


# --- which model ----------------------------------------------------------------------


def test_a_timm_model_is_listed_with_kinds_and_reasons(run: Run) -> None:
    code, out, err = run("test_resnet", "--num-classes", "7", "--image-size", "64")
    assert (code, err) == (0, "▸ Build test_resnet\n▸ Capture test_resnet\n▸ Analyse\n")
    first, *rest = out.splitlines()
    assert first.startswith("test_resnet: ")
    assert first.endswith("MACs per image of 3 × 64 × 64")
    assert "weights: as initialised, which is enough for this" in rest
    assert sum(line.startswith("can be cut: 99.9 % ") for line in rest) == 1
    assert any(line.split()[:3] == ["layer2.0.conv1", "conv", "48"] for line in rest)
    assert any(line.endswith("model output") for line in rest)


def test_json_holds_all_that_the_listing_does_and_tensors(run: Run) -> None:
    code, out, _ = run("net.py:build", "--image-size", "8", "--output", "scores", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["model"] == "net.py:build"
    assert document["input"] == [3, 8, 8]
    assert document["kinds"] == {"conv": {"groups": 1, "units": 8}}
    (group,) = document["groups"]
    assert group["tensors"][-1] == {"parameter": "fc.weight", "dim": 1, "positions": 36}
    assert {"reason", "tensors", "params", "stuck"} == document["frozen"][0].keys()
    assert document["cuttable"]["share"] == document["cuttable"]["params"] / document["params"]


def test_an_own_network_may_take_grey_images_and_have_several_outputs(run: Run) -> None:
    words = ("net.py:build", "--image-size", "8", "--num-classes", "4")
    code, out, _ = run(*words, "--in-chans", "1", "--output", "0")
    assert code == 0
    assert "1 × 8 × 8" in out.splitlines()[0]
    code, out, err = run(*words)
    assert code == 1
    assert "'scores' (2, 4), 'means' (2, 3)" in err.splitlines()[-1]


def test_weights_are_loaded_and_named(run: Run) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    torch.save(model.state_dict(), "own.pt")
    words = ("net.py:whole", "--image-size", "8", "--weights", "own.pt")
    code, out, _ = run(*words, "--num-classes", "5")
    assert code == 0
    assert "weights: own.pt" in out


def test_a_stored_model_is_read_as_it_is(run: Run, capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    slim = cut(dense, random_plan(dense))
    slim.save(Path("stored"))
    Path("bundle").mkdir()
    slim.save(Path("bundle") / "model")
    for folder in ("stored", "bundle"):
        code, out, _ = run(folder, "--json")
        document = json.loads(out)
        assert code == 0
        assert document["model"] == folder
        assert document["params"] == sum(p.numel() for p in slim.module.parameters())
        assert document["seconds"]["capture"] is None
        assert {g["name"]: g["size"] for g in document["groups"]} == {
            "conv1": 4, "conv2": 6, "hidden": 8
        }  # fmt: skip


def test_groups_can_be_listed_by_kind_and_by_pattern(run: Run) -> None:
    words = ("test_resnet", "--image-size", "64", "--json")
    _, everything, _ = run(*words)
    _, out, _ = run(*words, "--kind", "conv", "--groups", "layer[23].*")
    listed = {group["name"] for group in json.loads(out)["groups"]}
    assert listed == {
        group["name"]
        for group in json.loads(everything)["groups"]
        if group["kind"] == "conv" and group["name"][:6] in ("layer2", "layer3")
    }
    assert json.loads(out)["kinds"] == json.loads(everything)["kinds"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "Missing argument 'MODEL'"),
        (["test_resnt"], 1, "timm has no model 'test_resnt': did you mean test_resnet"),
        (["net.py"], 1, "name the function that builds the model, as 'net.py:build'"),
        (["."], 1, "holds no stored model: 'graph.json' is missing"),
        (["net.py:whole"], 1, "a sample that the model takes: see --image-size and --in-chans"),
        (["test_resnet", "--image-size", "0"], 2, "--image-size 0 is too small: give 1 or more"),
        (["test_resnet", "--weights", "absent.pt"], 1, "absent.pt"),
        (["test_resnet", "--kind", "heads"], 2, "no channel group is of kind 'heads'"),
        (["test_resnet", "--groups", "layr1.*"], 2, "did you mean layer1.*"),
    ],
)
def test_a_mistake_is_one_line(run: Run, words: list[str], code: int, message: str) -> None:
    ended, out, err = run(*words)
    assert (ended, out) == (code, "")
    *progress, line = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert all(each.startswith("▸ ") for each in progress)


def test_a_stored_model_takes_no_options_of_others(run: Run, capture_of: CaptureOf) -> None:
    capture_of("Chain").save(Path("stored"))
    code, _, err = run("stored", "--in-chans", "1")
    assert code == 2
    assert "'stored' is a stored model, which is complete: leave out --in-chans" in err


# --- how it reads ---------------------------------------------------------------------


def test_in_a_pipe_each_group_is_one_line_without_colour(run: Run, capture_of: CaptureOf) -> None:
    dense = capture_of("Transformer")
    dense.save(Path("stored"))
    _, out, _ = run("stored")
    assert "\x1b" not in out
    for group in analyse(dense).groups:
        assert sum(line.split()[:1] == [group.name] for line in out.splitlines()) == 1
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_in_a_narrow_terminal_no_line_is_too_long() -> None:
    model = nn.Sequential()
    model.add_module("a_module_with_a_name", nn.Conv2d(3, 6, 1))
    model.add_module("another_module_with_a_long_name", nn.Conv2d(6, 6, 1))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("head", nn.Linear(6, 5))
    shown = inspected(capture(model.eval(), images(2)))
    for width in (80, 100):
        assert max(len(line) for line in list(lines(shown, width))[1:]) <= width + len(
            "\x1b[1m\x1b[0m"
        )
    longest = max(len(line) for line in lines(shown))
    assert longest > 100


def test_help_teaches_by_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "edgeprune inspect my_net.py:build --in-chans 1 --image-size 64" in out
    assert "those that go with one of its units while" in out


def test_trainable_parameters_alone_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten())
    dense = capture(model.append(nn.Linear(6, 5)).eval(), images(2))
    assert inspect(dense).params == sum(
        dict(dense.module.named_parameters())[name].numel() for name in trainable(dense.module)
    )
    assert all("running" not in name for each in inspect(dense).obstacles for name in each.tensors)

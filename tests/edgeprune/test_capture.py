import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import Captured, aliases, assemble, capture, load, state, trainable
from edgeprune.cut import cut
from edgeprune.errors import CaptureError, ModelError
from edgeprune.verify import verify_cut

from .models import TINY, build, images, random_plan

CaptureOf = Callable[..., Captured]


class Body(nn.Module):
    """A model made of one function of a feature map (N, 4, 6, 6)."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.body = body
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.conv(x)).mean((2, 3)))


def targets(captured: Captured) -> list[str]:
    return [str(n.target) for n in captured.module.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_captured_model_equals_the_original_at_any_batch(
    name: str, count: int, capture_of: CaptureOf
) -> None:
    captured = capture_of(name)
    assert captured.dynamic_batch
    assert not any("batch" in note for note in captured.notes)
    with torch.no_grad():
        assert torch.equal(captured.module(images(count)), build(name)(images(count)))


def test_one_image_is_enough_of_a_sample() -> None:
    captured = capture(build("Chain"), images(1))
    assert captured.dynamic_batch
    assert captured.module(images(7)).shape == (7, 5)


@pytest.mark.parametrize("name", ["Chain", "Transformer", "test_resnet"])
def test_parameters_keep_their_names_and_values(name: str) -> None:
    size = 12 if name in TINY else 64
    model = build(name)
    captured = capture(model, images(2, size))
    expected = dict(model.named_parameters())
    actual = dict(captured.module.named_parameters())
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[k], expected[k]) for k in expected)
    buffers = {k for k, _ in model.named_buffers() if not k.endswith("num_batches_tracked")}
    assert dict(captured.module.named_buffers()).keys() == buffers


def test_capturing_changes_neither_the_model_nor_its_modes() -> None:
    model = build("Chain").train()
    model.bn1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    captured = capture(model, images(2))
    assert model.training
    assert not model.bn1.training
    with torch.no_grad():
        next(captured.module.parameters()).zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_training_mode_switches_batch_normalisation_and_dropout() -> None:
    captured = capture(build("Chain"), images(2))
    module, x = captured.module, images(16)
    still = module(x)
    module.train()
    torch.manual_seed(0)
    one, other = module(x), module(x)
    assert not torch.equal(one, other)  # dropout
    reference = build("Chain").train()
    torch.manual_seed(0)
    reference(x), reference(x)
    for name, buffer in module.named_buffers():
        assert torch.allclose(buffer, reference.get_buffer(name)), name
    module.eval()
    assert torch.equal(module(x), module(x))
    assert not torch.equal(module(x), still)  # the statistics have moved


def test_a_normalisation_without_running_statistics_never_switches() -> None:
    captured = capture(Body(lambda x: F.batch_norm(x, None, None, training=True)), images(4, 6))
    before = captured.module(images(4, 6))
    captured.module.train()
    assert torch.equal(captured.module(images(4, 6)), before)
    captured.module.eval()
    assert torch.equal(captured.module(images(4, 6)), before)


def test_every_parameter_of_a_captured_model_learns() -> None:
    captured = capture(build("Residual"), images(2))
    optimiser = torch.optim.Adam(captured.module.parameters(), lr=0.02)
    x, y = images(8), torch.arange(8) % 5
    captured.module.train()
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = F.cross_entropy(captured.module(x), y)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.any() for p in captured.module.parameters())


def test_a_clone_shares_nothing() -> None:
    captured = capture(build("Chain"), images(2))
    before = captured.module(images(2))
    clone = captured.clone()
    with torch.no_grad():
        for parameter in clone.module.parameters():
            parameter.zero_()
    clone.module.train()
    assert torch.equal(captured.module(images(2)), before)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return self.head(self.second(F.relu(self.first(x))))


def test_a_tied_weight_is_cut_once_where_both_modules_use_it() -> None:
    torch.manual_seed(0)
    captured = capture(Tied(), images(2))
    plan = random_plan(captured)
    slim = cut(captured, plan)
    assert verify_cut(captured, slim, plan, images(2)).max_rel < 1e-5
    assert slim.module.get_parameter("first.weight").shape == (3, 3)
    assert "second.weight" not in state(slim.module)


def test_one_tensor_under_two_names_stays_one_through_clone_cut_and_file(tmp_path: Path) -> None:
    captured = capture(Tied(), images(2))
    graph = copy.deepcopy(captured.module.graph)
    reader = [n for n in graph.nodes if n.target is torch.ops.aten.linear.default][1]
    with graph.inserting_before(reader):
        reader.update_arg(1, graph.get_attr("second.weight"))
    tensors = state(captured.module)
    both = tensors | {"second.weight": tensors["first.weight"]}
    tied = captured.with_module(assemble(graph, both, frozenset(both)))
    slim = cut(tied, random_plan(tied))
    slim.save(tmp_path)
    for each in (tied, tied.clone(), slim, load(tmp_path)):
        assert len(aliases(each.module)) == 1
        module = each.module
        assert module.get_parameter("first.weight") is module.get_parameter("second.weight")


# --- in-place operators ---------------------------------------------------------------


def _twice(x: Tensor) -> Tensor:
    y = x * 2
    return F.relu(y, inplace=True) + y


def _through_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :2].relu_()
    return y


def _seen_in_view(x: Tensor) -> Tensor:
    y = x * 2
    view = y[:, :2]
    y.mul_(3)
    return torch.cat([view, view], 1)


def _chained_on_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:3].add_(1).relu_()
    return y


def _after_dropout(x: Tensor) -> Tensor:
    y = x * 2
    dropped = F.dropout(y, 0.5, training=False)
    y.mul_(3)
    return dropped + 1


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (lambda x: F.relu(x, inplace=True), 0),
        (lambda x: F.hardswish(x.clone(), inplace=True).mul_(2), 0),
        (_twice, 0),  # export names the value anew after the operator
        (_through_view, 1),
        (_seen_in_view, 1),
        (_chained_on_view, 2),
        (_after_dropout, 1),
    ],
)
def test_in_place_operators_are_replaced_only_where_nobody_can_tell(
    body: Callable[[Tensor], Tensor], kept: int
) -> None:
    captured = capture(Body(body), images(2, 6))
    in_place = [t for t in targets(captured) if t.split(".")[1].endswith("_")]
    assert len(in_place) == kept


def test_a_model_that_writes_into_its_input_no_longer_does_when_captured() -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build("Chain")

        def forward(self, x: Tensor) -> Tensor:
            x[:, 0].mul_(2)
            return self.inner(x)

    captured = capture(Normalising(), images(2))
    mine = images(3)
    actual = captured.module(mine)
    assert torch.equal(mine, images(3))
    with torch.no_grad():
        assert torch.equal(actual, Normalising().eval()(images(3)))


# --- what cannot be captured ----------------------------------------------------------


def _branch(x: Tensor) -> Tensor:
    if x.sum() > 0:  # the line
        return x
    return -x


def test_data_dependent_control_flow_is_named_by_its_line() -> None:
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith("# the line")
    )  # fmt: skip
    with pytest.raises(CaptureError, match=rf"\(test_capture\.py, line {line}\)") as caught:
        capture(Body(_branch), images(2, 6))
    assert str(Path(__file__).parent) not in str(caught.value)


def _read_file(x: Tensor) -> Tensor:
    raise OSError("cannot read '/srv/someone/private/scale.txt'\nnor anything else")


def test_an_error_of_the_model_is_quoted_without_the_folders_of_this_machine() -> None:
    with pytest.raises(CaptureError, match=r"OSError: cannot read 'scale\.txt' \(test_capture"):
        capture(Body(_read_file), images(2, 6))


class Wrapped(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner = build("Chain")
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(self.inner(x))


def test_a_single_output_may_stand_in_a_container() -> None:
    captured = capture(Wrapped(lambda y: {"logits": y}), images(2))
    assert captured.module(images(3)).shape == (3, 5)


def test_a_model_that_fixes_its_batch_is_captured_and_says_so() -> None:
    captured = capture(Wrapped(lambda y: y.reshape(3, 5)), images(3))
    assert not captured.dynamic_batch
    assert captured.notes[0].startswith("fixed batch 3: the model does not export with dynamic")
    assert captured.module(images(3)).shape == (3, 5)


def test_a_batch_size_read_by_len_stays_dynamic() -> None:
    captured = capture(Wrapped(lambda y: y.reshape(len(y), 5)), images(3))
    assert captured.dynamic_batch
    assert captured.module(images(7)).shape == (7, 5)


# --- files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_stored_model_gives_the_same_outputs(
    name: str, capture_of: CaptureOf, tmp_path: Path
) -> None:
    captured = capture_of(name)
    captured.save(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded.module(images(4)), captured.module(images(4)))
    assert trainable(loaded.module) == trainable(captured.module)
    assert state(loaded.module).keys() == state(captured.module).keys()
    assert targets(loaded) == targets(captured)


def test_the_same_model_is_stored_as_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        capture(build("Transformer"), images(2)).save(tmp_path / folder)
    for name in ("graph.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stored_files_hold_no_path_and_no_source_text(tmp_path: Path) -> None:
    captured = capture(
        Wrapped(lambda y: y.reshape(3, 5)), images(3), source={"kind": "timm", "name": "x"}
    )
    captured.save(tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert not re.search(rb"/(home|root|tmp|usr|work)/|\.py\b|lambda|Traceback", content)
    assert json.loads((tmp_path / "graph.json").read_text())["source"] == captured.source
    assert load(tmp_path).source == captured.source


def test_a_plan_is_stored_beside_the_cut_model_or_above_it(
    capture_of: CaptureOf, tmp_path: Path
) -> None:
    dense = capture_of("Chain")
    slim = cut(dense, random_plan(dense))
    slim.save(tmp_path / "model")
    assert load(tmp_path).plan == slim.plan
    (tmp_path / "model" / "plan.json").rename(tmp_path / "plan.json")
    assert load(tmp_path).plan == slim.plan
    dense.save(tmp_path / "dense")
    assert load(tmp_path / "dense").plan is None


def test_a_model_saved_over_another_replaces_its_plan(
    capture_of: CaptureOf, tmp_path: Path
) -> None:
    dense = capture_of("Chain")
    cut(dense, random_plan(dense)).save(tmp_path)
    dense.save(tmp_path)
    assert load(tmp_path).plan is None


def test_an_interrupted_save_is_not_taken_for_a_model(
    capture_of: CaptureOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture_of("Chain").save(tmp_path)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[capture.__module__], "graph_to_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        capture_of("Residual").save(tmp_path)
    with pytest.raises(ModelError, match=r"'graph\.json' is missing"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["graph.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut short", "empty", "other"])
def test_a_damaged_model_is_one_clear_error(
    name: str, damage: str, capture_of: CaptureOf, tmp_path: Path
) -> None:
    capture_of("Chain").save(tmp_path)
    path = tmp_path / name
    match damage:
        case "missing":
            path.unlink()
        case "cut short":
            path.write_bytes(path.read_bytes()[:-200])
        case "empty":
            path.write_bytes(b"")
        case _:
            path.write_text('{"format": "edgeprune-graph", "version": 1}')
    with pytest.raises(ModelError, match=name):
        load(tmp_path)


def test_a_model_of_a_newer_version_is_refused(capture_of: CaptureOf, tmp_path: Path) -> None:
    capture_of("Chain").save(tmp_path)
    path = tmp_path / "graph.json"
    document = json.loads(path.read_text()) | {"version": 99}
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="version 99; this edgeprune reads"):
        load(tmp_path)

"""What cannot be captured is told in one sentence; the model is as it was in any case."""

import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import capture
from edgeprune.errors import CaptureError
from edgeprune.source import build_model, model_source, output_problem

from .models import images

Forward = Callable[..., Any]


class Net(nn.Module):
    """A convolution and a head, under a forward that each test writes."""

    count: Tensor

    def __init__(self, body: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.body = body
        self.register_buffer("count", torch.zeros(()))
        self.seen: list[int] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def net(body: Callable[[Net, Tensor], Any]) -> Net:
    torch.manual_seed(0)
    return Net(body).eval()


def refusal(body: Callable[[Net, Tensor], Any], **options: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(net(body), images(2, 8), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- several outputs ------------------------------------------------------------------


class Pair(NamedTuple):
    features: Tensor
    out: Tensor


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor
    hidden: tuple[Tensor, ...]


def _several(m: Net, x: Tensor) -> dict[str, Any]:
    y = m.logits(x)
    return {"maps": m.conv(x), "heads": [y * 2, y * 3], "aux": {"deep": y * 4}, "gone": None}


@pytest.mark.parametrize(
    ("output", "factor"),
    [("heads.0", 2), ("heads.-1", 3), ("aux", 4), ("aux.deep", 4), (2, 4), ("2", 4), ("1.1", 3)],
)
def test_the_logits_are_chosen_by_name_index_or_path(output: str | int, factor: int) -> None:
    model = net(_several)
    captured = capture(model, images(2, 8), output=output)
    expected = factor * model.logits(images(5, 8))
    assert torch.allclose(captured.module(images(5, 8)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: Pair(m.conv(x), m.logits(x)),
        lambda m, x: Answer(None, m.logits(x), (m.conv(x),)),
        lambda m, x: {"output": m.logits(x), "maps": m.conv(x)},
        lambda m, x: [m.logits(x)],
    ],
)
def test_without_a_choice_the_only_output_or_the_usual_name_is_taken(body: Forward) -> None:
    model = net(body)
    captured = capture(model, images(2, 8))
    assert torch.equal(captured.module(images(3, 8)), model.logits(images(3, 8)))
    assert captured.notes == ()


def test_several_outputs_without_a_choice_are_listed() -> None:
    message = refusal(lambda m, x: (m.logits(x), {"maps": m.conv(x)}))
    assert "2 tensors: '0' (2, 5), '1.maps' (2, 4, 8, 8)" in message
    assert "output=" in message


@pytest.mark.parametrize("output", ["head", "heads.7", 9, "aux.deep.0"])
def test_an_output_that_is_not_there_is_refused_with_those_that_are(output: str | int) -> None:
    message = refusal(_several, output=output)
    assert f"no output '{output}'" in message
    assert "'heads.1' (2, 5)" in message


def test_an_output_of_many_tensors_is_no_choice() -> None:
    assert "'heads.0'" in refusal(_several, output="heads")


def test_parameters_that_only_another_output_needs_are_left_out_and_named() -> None:
    model = net(lambda m, x: (m.logits(x), m.get_submodule("spare")(x)))
    model.spare = nn.Conv2d(3, 2, 1)
    captured = capture(model, images(2, 8), output=0)
    assert "spare.weight" not in dict(captured.module.named_parameters())
    assert "spare.weight, spare.bias" in captured.notes[0]


def test_a_source_keeps_which_output_was_chosen(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        textwrap.dedent("""
        from torch import nn
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(12, 4), nn.Linear(12, 5)
            def forward(self, x):
                return self.a(x.flatten(1)), self.b(x.flatten(1))
        def build():
            return Two()
        """)
    )
    source = model_source(f"{path}:build", num_classes=5, output="1")
    model, config = build_model(source), {"input_size": (3, 2, 2)}
    assert output_problem(model, config, 5, source.output) is None
    assert "name the one with the logits" in (output_problem(model, config, 5) or "")
    assert source.to_dict()["output"] == "1"


# --- outputs that are no logits -------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda m, x: m.conv(x), r"\(2, 4, 8, 8\), a feature map"),
        (lambda m, x: {"out": m.conv(x), "aux": m.conv(x)}, r"\(2, 4, 8, 8\), a feature map"),
        (lambda m, x: m.head(m.conv(x).flatten(2).mT), r"\(2, 64, 5\), a sequence"),
        (lambda m, x: m.logits(x)[:, 0], r"shape \(2,\); logits of shape \(2, classes\)"),
        (lambda m, x: m.logits(x)[:1], r"shape \(1, 5\); logits of shape \(2, classes\)"),
        (lambda m, x: m.logits(x).argmax(1, keepdim=True), r"returns torch\.int64"),
        (lambda m, x: m.logits(x) / 0, "not finite"),
        (lambda m, x: None, "a NoneType without tensors"),
        (lambda m, x: "cat", "a str without tensors"),
        (lambda m, x: [{"boxes": x[:, 0], "scores": x[0]}], r"'0\.boxes' \(2, 8, 8\)"),
    ],
)
def test_an_output_that_is_no_logits_is_refused(body: Forward, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        capture(net(body), images(2, 8))


# --- samples and models that do not fit -----------------------------------------------


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\); give a float tensor \(N, C, H, W\)"),
        (torch.zeros(1, 3, 4, 8, 8), r"\(1, 3, 4, 8, 8\); give a float tensor"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"torch\.uint8 .* give a float tensor"),
        (torch.zeros(0, 3, 8, 8), "is empty; give one image"),
        (torch.zeros(2, 4, 8, 8), r"fails on a sample of shape \(2, 4, 8, 8\): .*3 channels"),
        (torch.zeros(2, 3, 8, 8).double(), "fails on a sample .*double"),
        (torch.zeros(2, 3, 8, 8, device="meta"), "the sample is on meta, the model on cpu"),
        ([[0.0]], "the sample is a list; give a float tensor"),
    ],
)
def test_a_sample_of_another_form_is_refused(sample: Any, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        capture(net(Net.logits), sample)


class NeedsAge(nn.Linear):
    def forward(self, x: Tensor, age: Tensor, *, mask: Tensor, site: int = 0) -> Tensor:  # type: ignore[override]
        return super().forward(x.flatten(1)) * age * mask + site


class Optional(nn.Linear):
    def forward(self, x: Tensor, mask: Tensor | None = None, **more: bool) -> Tensor:  # type: ignore[override]
        y = super().forward(x.flatten(1))
        return y if mask is None else y * mask


def test_inputs_beside_the_images_are_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"needs 3 inputs \('x', 'age', 'mask'\).*wrap"):
        capture(NeedsAge(12, 4), images(2, 2))


def test_inputs_with_defaults_keep_them() -> None:
    assert capture(Optional(12, 4), images(2, 2)).dynamic_batch


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "lazy layers"),
        (nn.Conv2d(3, 4, 8, device="meta"), "'meta', where they have no values"),
        (len, "the model is a builtin"),
        (nn.ModuleDict({"class": nn.Linear(2, 2)}), r"'class\.weight' is a name"),
    ],
)
def test_a_model_that_cannot_run_is_refused(model: Any, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        capture(model, images(2, 8))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"TorchScript; give the nn.Module"):
        capture(torch.jit.script(nn.Flatten()), images(2, 8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the model asks for")
@pytest.mark.parametrize(
    "body", [lambda m, x: m.logits(x.cuda()), lambda m, x: m.logits(x + torch.ones(1).to("cuda"))]
)
def test_a_model_that_asks_for_cuda_is_named_with_the_line(body: Forward) -> None:
    message = refusal(body)
    assert message.startswith("Net asks for CUDA, while its parameters and the sample are on cpu")
    assert "(test_capture_refusals.py, line " in message


# --- code that cannot be recorded -----------------------------------------------------

USER_FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = x.flatten(1)
        {line}
        return self.head(x)

def build():
    return Net()
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x = x if x.mean() > 0 else -x", "another way depending on the values of a tensor"),
        ("x = x * 2 if bool((x > 9).any()) else x", "another way depending on the values"),
        ("x = torch.from_numpy(x.numpy() * 2)", "numpy"),
    ],
)
def test_code_that_export_cannot_follow_is_named_by_file_and_line(
    line: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "my_net.py"
    path.write_text(USER_FILE.format(line=line))
    number = path.read_text().splitlines().index(f"        {line}") + 1
    model = build_model(model_source(f"{path}:build", num_classes=5))
    with pytest.raises(CaptureError, match=said) as caught:
        capture(model, images(2, 2))
    assert f"(my_net.py, line {number})" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_torchs_own_branches_are_refused() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y * 1, lambda y: y * 2, (m.logits(x),))  # type: ignore[no-any-return]

    assert "torch's 'cond'" in refusal(body)


def _attending(x: Tensor, dropout: float) -> Tensor:
    x = x[:, None, :, None]
    return F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)[:, 0, :, 0]


@pytest.mark.parametrize(
    ("body", "drawn"),
    [
        (lambda m, x: m.logits(x) + torch.rand_like(m.logits(x)), "(rand_like)"),
        (lambda m, x: F.dropout(m.logits(x), 0.5), "(dropout)"),
        (lambda m, x: F.dropout(F.dropout(m.logits(x), 0.5, training=False)), "too (dropout):"),
        (lambda m, x: _attending(m.logits(x), 0.5), "(scaled_dot_product_attention)"),
        (lambda m, x: _attending(torch.rand_like(m.logits(x)), 0), "too (rand_like):"),
        (lambda m, x: m.logits(x) * random.random(), ""),  # noqa: S311
        (lambda m, x: m.logits(x) * m.count.add_(1), ""),
    ],
)
def test_a_model_that_answers_differently_each_time_is_refused(body: Forward, drawn: str) -> None:
    message = refusal(body)
    assert "other logits each time it sees the same images" in message
    assert drawn in message


def test_a_model_that_only_trains_is_refused_in_its_own_words() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        if not m.training:
            raise RuntimeError("evaluation is not written yet")
        return m.logits(x)

    assert "fails on a sample" in refusal(body)
    assert "evaluation is not written yet" in refusal(body)


def test_a_model_under_autocast_of_its_own_is_refused_where_it_matters() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.logits(x).float()

    assert "forward uses autocast to bfloat16" in refusal(body)


# --- the model afterwards -------------------------------------------------------------


def _keeping(m: Net, x: Tensor) -> Tensor:
    m.count += 1
    m.seen.append(len(m.seen))
    m.last = m.logits(x)
    return m.last


def test_what_a_model_keeps_for_itself_is_as_it_was() -> None:
    model = net(_keeping).train()
    model.seen.append(7)
    captured = capture(model, images(2, 8))
    assert model.training
    assert model.last is None
    assert model.seen == [7]
    assert model.count == 0
    assert dict(captured.module.named_buffers()) == {}  # the counter changed no logit


def test_a_failing_capture_leaves_the_model_as_it_was() -> None:
    model = net(lambda m, x: _keeping(m, x).argmax(1)).train()
    with pytest.raises(CaptureError):
        capture(model, images(2, 8))
    assert model.training
    assert model.count == 0
    assert model.seen == []

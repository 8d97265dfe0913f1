"""Cuts written back onto modules of their own class: proven equal, or refused with a reason."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.capture import Captured, capture, load
from edgeprune.cut import cut
from edgeprune.errors import CaptureError, CutError
from edgeprune.plan import Plan
from edgeprune.write_back import to_module

from .models import CLASSES, Transformer, build, disturb, images, plan_of, random_plan

EXPRESSIBLE = [
    ("Chain", "all", 12), ("Residual", "all", 12), ("Grouped", "all", 12),
    ("Concatenated", "all", 12), ("SqueezeExcite", "all", 12), ("Transformer", "hidden", 12),
    ("TokensFirst", "hidden", 12), ("test_resnet", "all", 64),
    ("test_vit", "all", 160), ("test_convnext", "all", 64),
]  # fmt: skip
SLOW = [
    ("mobilevit_xxs", 256), ("test_mambaout", 160), ("test_nfnet", 160), ("test_coatnet", 160),
    ("densenet121", 64), ("mobilenetv3_small_050", 64), ("resnext50_32x4d", 64),
    ("deit_tiny_patch16_224", 224), ("halonet_h1", 256),
]  # fmt: skip

CaptureOf = Callable[..., Captured]
State = dict[str, Any]


def tiny(model: nn.Module, *, seed: int = 0) -> nn.Module:
    disturb(model, seed=seed)
    return model.eval()


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def attributes(model: nn.Module) -> State:
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | tuple | list)
    }


def keep_first(dense: Captured, share: float, kind: str) -> Plan:
    """Keep the first units of every group of a kind, so that widths are known."""
    groups = [g for g in analyse(dense).groups if g.kind == kind]
    return plan_of(dense, {g.name: range(max(1, round(share * g.size))) for g in groups})


@pytest.mark.parametrize(("name", "kind", "size"), EXPRESSIBLE)
def test_the_module_computes_what_the_cut_computes(
    name: str, kind: str, size: int, capture_of: CaptureOf
) -> None:
    check_written_back(build(name), capture_of(name, size), kind, size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SLOW)
def test_public_architectures_take_a_cut_of_every_kind(name: str, size: int) -> None:
    model = build(name)
    check_written_back(model, capture(model, images(2, size)), "all", size)


def check_written_back(model: nn.Module, dense: Captured, kind: str, size: int) -> None:
    plan = random_plan(dense, kind)
    assert plan.units_removed
    slim = cut(dense, plan)
    module = to_module(slim, model)
    assert type(module) is type(model)
    batch = images(5, size, seed=7)
    assert relative(module(batch), slim.module(batch)) < 1e-5
    assert relative(module(batch), model(batch)) > 1e-3
    own, cut_ones = (dict(m.named_parameters()) for m in (module, slim.module))
    assert all(torch.equal(own[name], p) for name, p in cut_ones.items())


def test_the_model_given_stays_as_it_was(capture_of: CaptureOf) -> None:
    model = build("test_vit").train()
    before, numbers = copy.deepcopy(model.state_dict()), attributes(model)
    slim = cut(capture_of("test_vit", 160), random_plan(capture_of("test_vit", 160)))
    module = to_module(slim, model)
    assert attributes(model) == numbers
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert module.training
    with torch.no_grad():
        next(module.parameters()).add_(1)
    assert torch.equal(next(model.parameters()), next(iter(before.values())))


def test_weights_come_from_the_cut_and_not_from_the_model(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    slim = cut(dense, random_plan(dense))
    slim.module.train()
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(slim.module.parameters(), lr=0.1)
    slim.module(images(8)).square().sum().backward()
    optimizer.step()
    slim.module.eval()
    module = to_module(slim, build("Chain", seed=3))
    assert torch.equal(module(images(4)), slim.module(images(4)))
    assert torch.equal(
        module.get_buffer("bn1.running_mean"), slim.module.get_buffer("bn1.running_mean")
    )


def test_widths_of_torchs_own_layers_follow(capture_of: CaptureOf) -> None:
    dense = capture_of("Grouped")
    module: Any = to_module(cut(dense, keep_first(dense, 0.5, "conv")), build("Grouped"))
    assert module.depthwise.in_channels == module.depthwise.groups == len(module.widen.weight) < 12
    assert module.depthwise.out_channels == len(module.depthwise.weight)
    assert module.mix.in_channels == module.mix.weight.shape[1] * module.mix.groups
    assert module.norm.num_channels == len(module.norm.weight)
    assert module.norm.num_groups == module.mix.groups
    assert module.head.in_features == module.head.weight.shape[1]
    dense = capture_of("Chain")
    module = to_module(cut(dense, keep_first(dense, 0.25, "conv")), build("Chain"))
    assert (module.bn1.num_features, module.conv2.in_channels, module.conv2.out_channels) == (
        2,
        2,
        3,
    )
    assert (module.hidden.in_features, module.hidden.out_features) == (27, 16)
    assert "Conv2d(2, 3," in repr(module)


def test_heads_of_timms_attention_follow_and_its_scale_stays(capture_of: CaptureOf) -> None:
    dense, model = capture_of("test_vit", 160), build("test_vit")
    keep = {
        g.name: range(g.size - 1 if g.kind == "heads" else g.size // 2)
        for g in analyse(dense).groups
        if g.kind in ("heads", "head_dim")
    }
    module: Any = to_module(cut(dense, plan_of(dense, keep)), model)
    before, after = model.get_submodule("blocks.0.attn"), module.blocks[0].attn
    assert (after.num_heads, after.head_dim) == (before.num_heads - 1, before.head_dim // 2)
    assert after.attn_dim == after.num_heads * after.head_dim
    assert after.scale == before.scale
    assert not after.fused_attn
    assert module.blocks[0].norm1.normalized_shape == (64,)


def test_fused_attention_stays_where_the_scale_does_not_change(capture_of: CaptureOf) -> None:
    dense = capture_of("test_vit", 160)
    keep = {g.name: range(g.size - 1) for g in analyse(dense).groups if g.kind == "heads"}
    module: Any = to_module(cut(dense, plan_of(dense, keep)), build("test_vit"))
    assert all(block.attn.fused_attn for block in module.blocks)


class FusedOnly(Transformer):
    """Attention whose sizes are attributes, but whose scale is that of the fused operator."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4
        self.together = 12

    def attend(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, self.together))


def test_a_scale_that_the_class_derives_from_the_new_size_is_never_passed_over() -> None:
    torch.manual_seed(0)
    model = FusedOnly().eval()
    with torch.no_grad():
        model.qkv.weight[:24].mul_(0.003)
    dense = capture(model, images(2))
    slim = cut(dense, keep_first(dense, 0.5, "head_dim"))
    by_hand = FusedOnly().eval()
    by_hand.head_dim, by_hand.together = 2, 6
    for name, tensor in slim.module.named_parameters():
        path, _, leaf = name.rpartition(".")
        setattr(by_hand.get_submodule(path), leaf, tensor)
    # Attention is nearly uniform, so that with these weights the error does not show.
    assert relative(by_hand(images(3)), slim.module(images(3))) < 1e-4
    with pytest.raises(CutError, match=r"other logits.*scaled_dot_product_attention scale unset"):
        to_module(slim, model)
    heads: Any = to_module(cut(dense, keep_first(dense, 0.7, "heads")), model)
    assert (heads.heads, heads.together) == (2, 8)


def test_a_refusal_names_the_module_and_what_its_code_would_have_to_give(
    capture_of: CaptureOf,
) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Transformer()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = tiny(Wrapped())
    dense = capture(model, images(2))
    with pytest.raises(CutError) as refused:
        to_module(cut(dense, keep_first(dense, 0.5, "head_dim")), model)
    assert "Wrapped cannot express this cut: 'body' (Transformer) fails (RuntimeError" in str(
        refused.value
    )
    assert "reshape shape (…, 10, 3, 3, 4) → (…, 10, 3, 3, 2)" in str(refused.value)
    assert "use slim.module" in str(refused.value)


class Thirds(nn.Module):
    """Sizes in a list, and the method that runs chosen when it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [4, 4, 4]
        self.forward = self.by_parts  # type: ignore[method-assign]

    def by_parts(self, x: Tensor) -> Tensor:
        a, b, c = x.split(self.sizes, 1)
        return torch.cat([a.sigmoid(), b.tanh(), c], 1)


class Coincidences(nn.Module):
    """Numbers of one value with several meanings, and one that forward does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.side = 4
        self.left, self.right = 4, 4
        self.next_head = 4
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(3, 12, 3)
        self.thirds = Thirds()
        self.head = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = F.adaptive_avg_pool2d(self.first(x), self.side)
        left, right = a.split([self.left, self.right], 1)
        b = F.adaptive_avg_pool2d(self.thirds(self.second(x)), self.side)
        return self.head(torch.cat([left.sigmoid(), right.tanh(), b], 1).mean((2, 3)))


def test_an_attribute_follows_only_if_it_means_what_was_cut() -> None:
    model = tiny(Coincidences())
    dense = capture(model, images(2))
    names = [g.name for g in analyse(dense).groups]
    kept = ([0, 1, 2, 3], [2], [0], [0, 1], [0, 1, 2])  # of each piece of both splits
    slim = cut(dense, plan_of(dense, dict(zip(names, kept, strict=True))))
    module: Any = to_module(slim, model)
    assert (module.left, module.right, module.thirds.sizes) == (4, 1, [1, 2, 3])
    assert (module.side, module.next_head) == (4, 4)
    assert torch.equal(module(images(3)), slim.module(images(3)))


class Tied(nn.Module):
    """One weight under two names, one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.norm = self.again = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        return self.head(self.again(self.second(F.relu(self.norm(self.first(x))))))


def test_tied_parameters_stay_tied() -> None:
    model = tiny(Tied())
    dense = capture(model, images(2))
    slim = cut(dense, random_plan(dense))
    module: Any = to_module(slim, model)
    assert module.second.weight is module.first.weight
    assert module.norm is module.again
    assert module.first.weight.shape == slim.module.get_parameter("first.weight").shape != (8, 8)
    assert torch.equal(module(images(3)), slim.module(images(3)))


class Caching(nn.Module):
    """Keeps a product of its weights from the first evaluation until it is trained again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.slope = nn.Parameter(torch.rand(8))
        self.head = nn.Linear(8, CLASSES)
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> "Caching":
        self.kept = None if mode else self.kept
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None or torch.compiler.is_exporting():
            slope = self.slope.exp()
            if not torch.compiler.is_exporting():
                self.kept = slope.detach()
        else:
            slope = self.kept
        return self.head(self.stem(x).mean((2, 3)) * slope)


def test_what_a_module_computed_from_its_dense_weights_is_forgotten() -> None:
    model = tiny(Caching())
    dense = capture(model, images(2))
    model(images(2))
    slim = cut(dense, random_plan(dense))
    module = to_module(slim, model)
    assert relative(module(images(3)), slim.module(images(3))) < 1e-6


def test_weights_that_were_computed_from_others_come_back_plain() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )
    tiny(model)
    dense = capture(model, images(2))
    module: Any = to_module(cut(dense, random_plan(dense)), model)
    assert module[0].weight.shape == (4, 3, 3, 3)
    assert nn.utils.parametrize.is_parametrized(model[0])
    assert not nn.utils.parametrize.is_parametrized(module[0])


def test_a_class_from_a_users_own_file_takes_a_stored_cut(tmp_path: Path) -> None:
    file = tmp_path / "my_net.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.groups = 4\n"
        "        self.stem = nn.Conv2d(3, 16, 3)\n"
        "        self.body = nn.Conv2d(16, 16, 3, groups=4)\n"
        "        self.head = nn.Linear(16, 5)\n"
        "    def forward(self, x):\n"
        "        x = self.stem(x)\n"
        "        n, c, h, w = x.shape\n"
        "        x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2)\n"
        "        x = x.reshape(n, c, h, w)\n"
        "        return self.head(self.body(x).relu().mean((2, 3)))\n"
    )
    spec = importlib.util.spec_from_file_location("my_net", file)
    assert spec is not None
    assert spec.loader is not None
    net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(net)
    model = tiny(net.Net())
    dense = capture(model, images(2))
    cut(dense, random_plan(dense)).save(tmp_path / "slim")
    slim = load(tmp_path / "slim")
    module = to_module(slim, model)
    assert isinstance(module, net.Net)
    assert torch.equal(module(images(3)), slim.module(images(3)))


def test_the_module_trains_as_the_cut_does(capture_of: CaptureOf) -> None:
    dense = capture_of("Residual")
    slim = cut(dense, random_plan(dense))
    module = to_module(slim, build("Residual"))
    for one in (module, slim.module):
        one.train()
        one(images(8)).square().sum().backward()
    gradients = dict(slim.module.named_parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-5), name
    assert torch.allclose(
        module.get_buffer("bn.running_mean"), slim.module.get_buffer("bn.running_mean")
    )


def test_frozen_parameters_stay_frozen(capture_of: CaptureOf) -> None:
    model = build("Residual")
    model.get_parameter("stem.weight").requires_grad_(False)
    dense = capture_of("Residual")
    module = to_module(cut(dense, random_plan(dense)), model)
    assert not module.get_parameter("stem.weight").requires_grad
    assert module.get_parameter("head.weight").requires_grad


def test_a_plan_that_keeps_everything_gives_the_model_back_bit_for_bit(
    capture_of: CaptureOf,
) -> None:
    model, dense = build("test_vit"), capture_of("test_vit", 160)
    module = to_module(cut(dense, plan_of(dense, {})), model)
    assert torch.equal(module(images(2, 160)), model(images(2, 160)))
    assert attributes(module) == attributes(model)


def test_one_of_several_outputs_is_compared() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain: nn.Module = build("Chain")

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            logits: Tensor = self.chain(x)
            return {"doubt": logits.sigmoid(), "answer": logits}

    model = Two().eval()
    dense = capture(model, images(2), output="answer")
    slim = cut(dense, random_plan(dense))
    module = to_module(slim, model, output="answer")
    assert torch.equal(module(images(3))["answer"], slim.module(images(3)))


def test_a_model_of_another_configuration_is_refused(capture_of: CaptureOf) -> None:
    dense = capture_of("Transformer")
    slim = cut(dense, random_plan(dense, share=0.9))
    with pytest.raises(CutError, match="not the one that was cut"):
        to_module(slim, tiny(Transformer(width=6)))
    with pytest.raises(CutError, match=r"not the one that was cut: its '.*' has no counterpart"):
        to_module(slim, build("Chain"))


def test_a_model_that_cannot_be_copied_is_refused(capture_of: CaptureOf) -> None:
    class Stubborn(nn.Module):
        def __deepcopy__(self, memo: object) -> "Stubborn":
            raise TypeError("only one of me")

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = build("Chain")
    model.drop = Stubborn()
    dense = capture(model, images(2))
    with pytest.raises(CaptureError, match=r"Chain cannot be copied.*only one of me"):
        to_module(cut(dense, random_plan(dense)), model)

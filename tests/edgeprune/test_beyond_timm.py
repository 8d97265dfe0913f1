"""Models that are not timm's: captured, cut by half, proven, trained and stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from edgeprune.capture import Captured, capture, load, state
from edgeprune.cut import cut
from edgeprune.source import model_source, open_model
from edgeprune.verify import verify_cut

from .hand_written import HAND_WRITTEN, SIDE, Normalised, NormalisedByHooks, Shared
from .models import disturb, images, random_plan

Build = Callable[[], nn.Module]
SLOW: Final = pytest.mark.slow
OLD_WAYS: Final = pytest.mark.filterwarnings("ignore:.*_norm.* is deprecated:FutureWarning")


def passes(model: nn.Module, sample: Tensor, folder: Path, **options: Any) -> tuple[Captured, ...]:
    """Take a model the whole way; return its captured and its cut form."""
    disturb(model)
    dense = capture(model.eval(), sample, **options)
    assert dense.dynamic_batch
    assert dict(dense.module.named_parameters()).keys() <= _plain_names(model)
    plan = random_plan(dense)
    slim = cut(dense, plan)
    proof = verify_cut(dense, slim, plan, sample)
    assert proof.ok, proof
    assert proof.changed > 1e-3
    slim.save(folder)
    stored = load(folder)
    assert torch.equal(stored.module(sample), slim.module(sample))
    assert stored.notes == dense.notes
    _train_one_step(slim, sample)
    return dense, slim


def _plain_names(model: nn.Module) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    computed = {name.removesuffix(ending) for name in names for ending in ("_g", "_v", "_orig")}
    inside = {name.replace("parametrizations.", "").rpartition(".")[0] for name in names}
    return names | computed | inside


def _train_one_step(slim: Captured, sample: Tensor) -> None:
    module = slim.module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    logits = module(sample)
    F.cross_entropy(logits, torch.arange(len(sample)) % logits.shape[1]).backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None]
    assert missing == []
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimiser.step()
    moved = [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.5 * len(before)  # what a plan by chance leaves unread cannot move
    module.eval()
    with torch.no_grad():
        assert module(sample).isfinite().all()


def share(dense: Captured, slim: Captured) -> float:
    """Return the share of parameters kept."""
    count = [sum(p.numel() for p in m.module.parameters()) for m in (slim, dense)]
    return count[0] / count[1]


# --- written by hand ------------------------------------------------------------------


@OLD_WAYS
@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_models_are_cut_by_half_everywhere(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense, slim = passes(HAND_WRITTEN[name](), images(3, SIDE), tmp_path)
    assert share(dense, slim) < 0.6  # half of all units; frozen ones would show


@OLD_WAYS
@pytest.mark.parametrize("kind", [Normalised, NormalisedByHooks])
def test_computed_weights_become_plain_and_the_users_model_keeps_computing_them(
    kind: type[nn.Module],
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    before = model(images(2, SIDE))
    names = {name for name, _ in model.named_parameters()}
    captured = capture(model, images(2, SIDE))
    assert {"weighted.weight", "spectral.weight"} <= state(captured.module).keys()
    assert any(note.startswith("WeightNorm") and "'weighted.weight'" in note
               for note in captured.notes)  # fmt: skip
    assert torch.allclose(captured.module(images(2, SIDE)), before, atol=1e-6)
    assert {name for name, _ in model.named_parameters()} == names
    assert torch.equal(model(images(2, SIDE)), before)
    if kind is Normalised:
        assert parametrize.is_parametrized(model.get_submodule("weighted"))
        assert prune.is_pruned(model.get_submodule("pruned"))  # type: ignore[no-untyped-call]


def test_shared_layers_are_one_parameter_under_its_first_name() -> None:
    torch.manual_seed(0)
    captured = capture(Shared(), images(2, SIDE))
    assert {name for name, _ in captured.module.named_parameters()} == {
        "stem.weight", "stem.bias", "block.weight", "block.bias", "other.bias",
        "fc.weight", "fc.bias",
    }  # fmt: skip
    assert captured.module.get_buffer("order").dtype == torch.int64


def test_names_of_modules_may_hold_what_identifiers_do_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleDict({"block1-0": nn.Conv2d(3, 8, 1), "1x1 größer": nn.Conv2d(8, 6, 1)})

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = blocks
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks.values():
                x = F.relu(block(x))
            return self.head(x.mean((2, 3)))

    _, slim = passes(Named(), images(3, 4), tmp_path)
    assert "blocks.1x1 größer.weight" in state(slim.module)


class Cached(nn.Module):
    """Keeps a lookup of its weights for evaluation, as some attention layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.scales = nn.Parameter(torch.randn(16))
        self.fc = nn.Linear(6, 4)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "Cached":
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            scales = self.scales * 2
        else:
            scales = self.cache.setdefault("scales", self.scales * 2)
        return self.fc((self.conv(x).flatten(2) * scales).mean(2))


def test_weights_behind_a_cache_of_evaluation_are_still_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Cached().eval()
    with torch.inference_mode():
        model(images(2, 4))
    kept = dict(model.cache)
    dense, _ = passes(model, images(3, 4), tmp_path)
    assert "scales" in dict(dense.module.named_parameters())
    assert model.cache.keys() == kept.keys()


class CachedPairs(Cached):
    """Works on pairs of images, which only an odd batch shows."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.reshape(-1, 2, 4).flatten(0, 1)


def test_a_batch_that_no_graph_takes_is_fixed_and_what_was_cached_meanwhile_dropped() -> None:
    torch.manual_seed(0)
    captured = capture(CachedPairs(), images(4, 4))
    assert not captured.dynamic_batch
    assert captured.notes == (
        "fixed batch 4: the model does not export with dynamic batch "
        "(the model itself fails at batch 5)",
    )
    assert "scales" in dict(captured.module.named_parameters())


def test_a_batch_normalisation_that_always_uses_its_batch_never_switches() -> None:
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            mean, var = self.bn.running_mean, self.bn.running_var
            return F.batch_norm(self.conv(x), mean, var, training=True).amax((2, 3))

    model = Always()
    captured = capture(model, images(2, 4))
    before = captured.module(images(4, 4))
    captured.module.train()
    assert torch.equal(captured.module(images(4, 4)), before)
    assert dict(captured.module.named_buffers()) == {}
    assert model.bn.running_mean is not None
    assert not model.bn.running_mean.any()


def test_a_buffer_that_forward_writes_is_used_as_it_was_at_capture() -> None:
    class Clamped(nn.Module):
        limits: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("limits", torch.tensor([-9.0, 9.0]))
            self.fc = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.limits.clamp_(-5, 5)
            return self.fc(x.flatten(1)).clamp(self.limits[0], self.limits[1])

    model = Clamped()
    captured = capture(model, images(2, 2))
    assert "forward writes into 'limits'" in captured.notes[0]
    captured.module(images(2, 2))
    assert captured.module.get_buffer("limits").tolist() == [-9, 9]
    assert model.limits.tolist() == [-9, 9]


@pytest.mark.parametrize(
    "under",
    [
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cpu", dtype=torch.float32, enabled=False),
    ],
)
def test_code_under_a_mode_of_its_own_is_inlined_and_learns(under: Any, tmp_path: Path) -> None:
    class Moded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.scale = nn.Parameter(torch.rand(8, 1, 1))
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            with under:
                a, b = (self.conv(x) * self.scale).float().chunk(2, 1)
            return self.fc(torch.cat([b, a], 1).mean((2, 3)))

    torch.manual_seed(0)
    dense, slim = passes(Moded(), images(3, 4), tmp_path)
    assert all(n.op != "call_module" and ".higher_order." not in str(n.target)
               for n in dense.module.graph.nodes)  # fmt: skip
    assert slim.module.get_parameter("scale").shape == (4, 1, 1)


FACTORY: Final = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True))
        self.old, self.new = nn.Linear(12, 2), nn.Linear(12, classes)

    def forward(self, x):
        x = self.features(x).mean((2, 3))
        return {"old": self.old(x), "new": self.new(x)}

def build(num_classes):
    return Net(num_classes)
"""


def test_a_file_of_the_users_own_is_built_captured_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "my_net.py"
    path.write_text(FACTORY)
    source = model_source(f"{path}:build", num_classes=5, output="new")
    built = open_model(source)
    dense, slim = passes(
        built.model, images(3), tmp_path / "model", source=source.to_dict(), output=source.output
    )
    assert share(dense, slim) < 0.6
    assert "old.weight, old.bias" in dense.notes[0]
    assert load(tmp_path / "model").source == source.to_dict()


# --- torchvision ----------------------------------------------------------------------


def _vision_transformer() -> nn.Module:
    return zoo.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)


def _maxvit() -> nn.Module:
    return zoo.maxvit.MaxVit(
        input_size=(64, 64), stem_channels=16, partition_size=2, block_channels=[16, 32],
        block_layers=[1, 1], stochastic_depth_prob=0.0, head_dim=8, num_classes=5,
    )  # fmt: skip


def _of(name: str, **options: Any) -> Build:
    return lambda: zoo.get_model(name, weights=None, num_classes=5, **options)


VISION: Final[dict[str, Build]] = {
    name: _of(name)
    for name in (
        "alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1",
        "densenet121", "shufflenet_v2_x0_5", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
        "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "swin_t",
        "swin_v2_t",
    )
} | {
    "vit": _vision_transformer,
    "maxvit": _maxvit,
    "inception_v3": _of("inception_v3", aux_logits=False, init_weights=False),
    "inception_v3 with a second head": _of("inception_v3", aux_logits=True, init_weights=False),
    "googlenet": _of("googlenet", init_weights=False),
}  # fmt: skip
EDGES: Final = {
    "vgg11_bn": 32,
    "vit": 32,
    "inception_v3": 96,
    "inception_v3 with a second head": 96,
}
QUICK: Final = ("vit", "mobilenet_v3_small")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in VISION]
)
def test_torchvisions_classifiers_pass(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    edge = EDGES.get(name, 64)
    dense, slim = passes(VISION[name](), images(2, edge), tmp_path)
    assert share(dense, slim) < 0.5
    second = [note for note in dense.notes if "AuxLogits" in note or "aux1" in note]
    assert len(second) == (name in ("googlenet", "inception_v3 with a second head"))


# --- Hugging Face ---------------------------------------------------------------------

VIT: Final = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
STAGES: Final = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN: Final = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
    "window_size": 4,
}  # fmt: skip
DINO: Final = {key: value for key, value in VIT.items() if key != "intermediate_size"}
HUGGING: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ViT": ("ForImageClassification", VIT),
    "DeiT": ("ForImageClassification", VIT),
    "DeiT with a teacher": ("ForImageClassificationWithTeacher", VIT),
    "Beit": ("ForImageClassification", VIT | {"use_relative_position_bias": True}),
    "Dinov2": ("ForImageClassification", DINO | {"mlp_ratio": 2}),
    "Swin": ("ForImageClassification", SWIN),
    "Swinv2": ("ForImageClassification", SWIN),
    "ConvNext": ("ForImageClassification", STAGES | {"num_stages": 2}),
    "ConvNextV2": ("ForImageClassification", STAGES | {"num_stages": 2}),
    "ResNet": ("ForImageClassification", STAGES | {"embedding_size": 8}),
    "MobileViT": (
        "ForImageClassification",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
    ),
    "Segformer": (
        "ForImageClassification",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]},
    ),
    "PoolFormer": (
        "ForImageClassification",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]},
    ),
    "FocalNet": (
        "ForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1],
         "focal_levels": [2, 2], "focal_windows": [3, 3]},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(
    "name",
    [name if name in ("ViT", "ConvNext") else pytest.param(name, marks=SLOW) for name in HUGGING],
)
def test_hugging_faces_classifiers_pass_from_their_configuration(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ending, options = HUGGING[name]
    kind = name.split(" ", maxsplit=1)[0]
    config = getattr(transformers, f"{kind}Config")(**options, num_labels=5)
    torch.manual_seed(0)
    model = getattr(transformers, kind + ending)(config)
    edge = options.get("image_size", 64)
    dense, slim = passes(model, images(3, edge), tmp_path)
    assert share(dense, slim) < 0.5
    second = capture(model, images(2, edge), output="logits")
    with torch.no_grad():
        assert torch.equal(second.module(images(3, edge)), dense.module(images(3, edge)))


# --- MONAI ----------------------------------------------------------------------------

SMALL: Final = {"init_features": 8, "growth_rate": 4, "block_config": (2, 2), "out_channels": 5}
MEDICAL: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "DenseNet": ("DenseNet", {"in_channels": 3} | SMALL),
    "DenseNet121": ("DenseNet121", {"in_channels": 3, "out_channels": 5}),
    "EfficientNet": (
        "EfficientNetBN",
        {"model_name": "efficientnet-b0", "in_channels": 3, "num_classes": 5, "pretrained": False},
    ),
    "SEResNet": ("SEResNet50", {"in_channels": 3, "num_classes": 5}),
    "ResNet": ("resnet10", {"n_input_channels": 3, "num_classes": 5}),
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(
    "name", [name if name == "DenseNet" else pytest.param(name, marks=SLOW) for name in MEDICAL]
)
def test_monais_classifiers_pass(name: str, tmp_path: Path) -> None:
    nets = pytest.importorskip("monai.networks.nets")
    kind, options = MEDICAL[name]
    torch.manual_seed(0)
    dense, slim = passes(getattr(nets, kind)(spatial_dims=2, **options), images(2, 64), tmp_path)
    assert share(dense, slim) < 0.5

"""One model of each of timm's families: the smallest one, with weights that hide nothing.

A family is a module of ``timm.models``. All are classifiers of 1000 classes
(those that timm ships without a head are given one). Sizes are timm's own,
except for five models that take any size and whose own only costs time: what
hangs together with what does not depend on it.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .models import disturb

CLASSES: Final = 1000
FAMILIES: Final[Mapping[str, tuple[str, int]]] = {
    "beit": ("beit_base_patch16_224", 224),
    "byoanet": ("halonet_h1", 256),
    "byobnet": ("test_byobnet", 160),
    "cait": ("cait_xxs24_224", 224),
    "coat": ("coat_tiny", 224),
    "convit": ("convit_tiny", 224),
    "convmixer": ("convmixer_768_32", 224),
    "convnext": ("test_convnext", 160),
    "cpubone": ("cpubone_nano", 224),
    "crossvit": ("crossvit_tiny_240", 240),
    "csatv2": ("csatv2", 512),
    "cspnet": ("cs3darknet_focus_s", 256),
    "cspnext": ("cspnext_tiny", 224),
    "davit": ("davit_tiny", 224),
    "deepseek_vit": ("deepseek_vit_412m", 126),
    "deit": ("deit_tiny_patch16_224", 224),
    "densenet": ("densenet121", 224),
    "dla": ("dla46x_c", 224),
    "dpn": ("dpn48b", 224),
    "edgenext": ("edgenext_xx_small", 256),
    "efficientformer": ("efficientformer_l1", 224),
    "efficientformer_v2": ("efficientformerv2_s0", 224),
    "efficientnet": ("test_efficientnet", 160),
    "efficientvim": ("efficientvim_m1", 224),
    "efficientvit_mit": ("efficientvit_b0", 224),
    "efficientvit_msra": ("efficientvit_m0", 224),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 256),
    "fasternet": ("fasternet_t0", 224),
    "fastvit": ("fastvit_t8", 256),
    "focalnet": ("focalnet_tiny_srf", 224),
    "gcvit": ("gcvit_xxtiny", 224),
    "gemma4_vit": ("gemma4_vit_167m", 96),
    "ghostnet": ("ghostnet_050", 224),
    "hardcorenas": ("hardcorenas_b", 224),
    "hgnet": ("hgnetv2_b0", 224),
    "hiera": ("hiera_tiny_224", 224),
    "hieradet_sam2": ("sam2_hiera_tiny", 224),
    "hrnet": ("hrnet_w18_small", 224),
    "iformer": ("iformer_t", 224),
    "inception_next": ("inception_next_atto", 224),
    "inception_resnet_v2": ("inception_resnet_v2", 299),
    "inception_v3": ("inception_v3", 299),
    "inception_v4": ("inception_v4", 299),
    "lcnetv2": ("lcnetv2_small", 224),
    "levit": ("levit_128s", 224),
    "lowformer": ("lowformer_b0", 224),
    "mambaout": ("test_mambaout", 160),
    "maxxvit": ("test_coatnet", 160),
    "metaformer": ("poolformerv2_s12", 224),
    "mlp_mixer": ("gmlp_ti16_224", 224),
    "mobilenetv3": ("mobilenetv3_small_050", 224),
    "mobilenetv5": ("mobilenetv5_base", 256),
    "mobilevit": ("mobilevit_xxs", 256),
    "mvitv2": ("mvitv2_tiny", 224),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", 224),
    "nasnet": ("nasnetalarge", 331),
    "nest": ("nest_tiny", 224),
    "nextvit": ("nextvit_small", 224),
    "nfnet": ("test_nfnet", 160),
    "pit": ("pit_ti_224", 224),
    "pnasnet": ("pnasnet5large", 331),
    "pvt_v2": ("pvt_v2_b0", 224),
    "qwen3_vit": ("qwen3_vit_88m", 224),
    "rdnet": ("rdnet_tiny", 224),
    "regnet": ("regnetx_002", 224),
    "repghost": ("repghostnet_050", 224),
    "repvit": ("repvit_m1", 224),
    "res2net": ("res2next50", 224),
    "resnest": ("resnest14d", 224),
    "resnet": ("test_resnet", 160),
    "resnetv2": ("resnetv2_18", 224),
    "rexnet": ("rexnet_100", 224),
    "selecsls": ("selecsls42", 224),
    "senet": ("legacy_seresnet18", 224),
    "sequencer": ("sequencer2d_s", 224),
    "shvit": ("shvit_s1", 224),
    "sknet": ("skresnet18", 224),
    "starnet": ("starnet_s050", 224),
    "swiftformer": ("swiftformer_xs", 224),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 224),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 256),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 224),
    "tiny_vit": ("tiny_vit_5m_224", 224),
    "tnt": ("tnt_s_legacy_patch16_224", 224),
    "tresnet": ("tresnet_m", 224),
    "twins": ("twins_svt_small", 224),
    "vgg": ("vgg11", 224),
    "visformer": ("visformer_tiny", 224),
    "vision_transformer": ("test_vit", 160),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 224),
    "vision_transformer_relpos": ("test_vit_relpos", 160),
    "vision_transformer_sam": ("samvit_base_patch16_224", 224),
    "vitamin": ("vitamin_small_224", 224),
    "volo": ("volo_d1_224", 224),
    "vovnet": ("ese_vovnet19b_slim_dw", 224),
    "xception": ("legacy_xception", 299),
    "xception_aligned": ("xception41p", 299),
    "xcit": ("xcit_nano_12_p8_224", 224),
}

SHARPNESS: Final = ("q_norm.weight", "k_norm.weight", "qkv.bn.weight", "kv.bn.weight")


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A family's smallest model, in evaluation mode, and the width of its square input."""

    name: str
    model: nn.Module
    size: int


def family(name: str) -> Family:
    """Build a family's model; the same weights every time."""
    model_name, size = FAMILIES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's own deprecations
        model = timm.create_model(model_name, num_classes=CLASSES)
    disturb(model)
    strengthen(model)
    soften(model)
    settle(model.eval(), pictures(4, size, seed=2))
    return Family(name=name, model=model, size=size)


def pictures(count: int, size: int, *, seed: int = 1) -> Tensor:
    """Make images (count, 3, size, size) that stay different in a deep network.

    White noise averages out within a few layers, and all images end alike.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 3, 1, 1, generator=generator)
    for grid in (2, 4, 16, size):
        noise = torch.randn(count, 3, grid, grid, generator=generator)
        image = image + F.interpolate(noise, (size, size), mode="nearest")
    return image / 2


def strengthen(model: nn.Module) -> None:
    """Scale linear layers up to unit gain.

    With the small weights that transformers start from, attention is all but
    uniform, and a wrong scale or a lost head goes unnoticed.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.weight.numel() > 1:
                gain = float(module.weight.std()) * module.in_features**0.5
                module.weight.mul_(max(1.0, 1 / max(gain, 1e-6)))


def soften(model: nn.Module) -> None:
    """Halve what normalises queries and keys: how sharply attention attends.

    At their disturbed values some networks turn a rounding error of an image
    into one a thousand times larger, and nothing can be compared to 1e-4.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(SHARPNESS):
                weight.mul_(0.5)


def settle(model: nn.Module, images: Tensor) -> None:
    """Let BatchNorm take its statistics from images, then move them off a little.

    With statistics that do not belong to the weights, signals fade or explode
    on their way, and the last layers alone decide what comes out.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        if norms:
            model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            noise = torch.rand(2, len(mean), generator=generator)
            mean += (noise[0] - 0.5) * 0.2 * variance.sqrt()
            # What hardly varies would be amplified, and rounding errors with it.
            floor = 0.1 * float((variance + mean**2).mean())
            variance.clamp_(min=floor).mul_(0.8 + 0.4 * noise[1])

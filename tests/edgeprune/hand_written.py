"""Models as people write them by hand: one per idiom of the text-books, tiny.

Each has a head of its own, and takes images (N, 3, 12, 12).
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

SIDE: Final = 12
ANSWERS: Final = 5


class Basic(nn.Module):
    """ResNet's basic block with a projection on the shortcut, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 12, 1, stride=2), nn.BatchNorm2d(12))
        self.conv3 = nn.Conv2d(12, 6, 3, padding=1)
        self.conv4 = nn.Conv2d(6, 12, 3, padding=1)
        self.fc = nn.Linear(12, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))
        identity = x
        x = self.conv4(F.relu(self.conv3(x)))
        x += identity
        x = F.adaptive_avg_pool2d(F.relu(x), 1)
        return self.fc(x.view(x.size(0), -1))


class Dense(nn.Module):
    """DenseNet: every layer reads all features before it, from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.squeeze = nn.Conv2d(18, 8, 1)
        self.fc = nn.Linear(8, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, dim=1)))))
        x = F.avg_pool2d(self.squeeze(torch.cat(features, 1)), 2)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Attention(nn.Module):
    """A block around an attention that its subclass writes: tokens (N, 9, 12) to the same."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.size = width // heads
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norm1 = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))
        self.fc = nn.Linear(width, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.project(self.attend(self.norm1(x)))
        x = x + self.mlp(self.norm2(x))
        return self.fc(x.mean(dim=1))

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class FusedUnbind(Attention):
    """One linear layer for q, k and v, taken apart by unbind."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.size**-0.5).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c)


class FusedChunk(Attention):
    """One linear layer for q, k and v, taken apart by chunk; heads by view."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(12, 36, bias=False)

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        parts = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (t.view(b, n, self.heads, self.size).transpose(1, 2) for t in parts)
        dots = torch.matmul(q, k.transpose(-1, -2)) / self.size**0.5
        out = torch.matmul(F.softmax(dots, dim=-1), v)
        return out.transpose(1, 2).contiguous().view(b, n, -1)


class ThreeLinears(Attention):
    """A linear layer each for q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(q.matmul(k.transpose(2, 3)) / self.size**0.5, -1)
        out = weights.matmul(v).permute(0, 2, 1, 3)
        return out.reshape(out.shape[0], out.shape[1], out.shape[2] * out.shape[3])

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)


class Einsum(ThreeLinears):
    """Attention written in letters."""

    def attend(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (self.heads, self.size)) for layer in layers)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(self.size**-0.5).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


class BuiltIn(Attention):
    """torch.nn.MultiheadAttention, which has a path of its own in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def attend(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x)[0]
        return out


class Encoder(nn.Module):
    """torch.nn.TransformerEncoder over patches, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(12, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1)
        return self.fc(self.encoder(x)[:, 0])


class Shuffle(nn.Module):
    """ShuffleNet: half the channels pass by, then both halves are dealt out in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), depthwise, nn.Conv2d(4, 4, 1))
        self.grouped = nn.Conv2d(8, 16, 1, groups=2)
        self.fc = nn.Linear(16, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = self.shuffle(torch.cat((left, self.branch(right)), dim=1))
        x = self.shuffle(F.relu(self.grouped(x)))
        return self.fc(x.mean([2, 3]))

    @staticmethod
    def shuffle(x: Tensor, groups: int = 2) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class Gated(nn.Module):
    """Gated linear units: torch's own over channels, and one of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.glu = nn.GLU(dim=1)
        self.up = nn.Linear(8, 10)
        self.gate = nn.Linear(8, 10)
        self.both = nn.Linear(10, 12)
        self.fc = nn.Linear(6, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.glu(self.conv(x)).mean((2, 3))
        x = self.up(x) * F.silu(self.gate(x))
        return self.fc(F.glu(self.both(x)))


class SqueezeExcitation(nn.Module):
    """Channels scaled by what two linear layers make of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.attention = nn.Sequential(
            nn.Linear(8, 4), nn.ReLU(inplace=True), nn.Linear(4, 8), nn.Sigmoid()
        )
        self.fc = nn.Linear(8, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        b, c, _, _ = x.size()
        scale = self.attention(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
        return self.fc((x * scale.expand_as(x)).mean((2, 3)))


class Cbam(nn.Module):
    """Channel attention from mean and maximum, then spatial attention over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.mlp = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.where = nn.Conv2d(2, 1, 3, padding=1)
        self.fc = nn.Linear(8, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        mean, largest = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(self.mlp(mean) + self.mlp(largest))
        mean, largest = torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]
        x = x * torch.sigmoid(self.where(torch.cat([mean, largest], dim=1)))
        return self.fc(x.mean((2, 3)))


class Groups(nn.Module):
    """Group, instance and layer-like normalisation of feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.norm1 = nn.GroupNorm(4, 8)
        self.conv2 = nn.Conv2d(8, 12, 3)
        self.norm2 = nn.GroupNorm(1, 12)
        self.conv3 = nn.Conv2d(12, 6, 1)
        self.norm3 = nn.InstanceNorm2d(6, affine=True)
        self.fc = nn.Linear(6, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.leaky_relu(self.norm2(self.conv2(x)))
        return self.fc(F.elu(self.norm3(self.conv3(x))).amax((2, 3)))


class Recurrent(nn.Module):
    """Rows of a feature map, read by an LSTM; its last state decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.narrow = nn.Conv2d(8, 4, 1)
        self.lstm = nn.LSTM(4 * SIDE, 6, batch_first=True)
        self.fc = nn.Linear(6, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(F.relu(self.conv(x))).permute(0, 2, 1, 3).flatten(2)
        out, _ = self.lstm(x)
        return self.fc(out[:, -1])


class Unshuffled(nn.Module):
    """Space into channels before the first layer, channels into space before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(2)
        self.conv = nn.Conv2d(12, 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 6, 3)
        self.fc = nn.Linear(6, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(F.relu(self.conv(self.unshuffle(x))))
        return self.fc(F.relu(self.last(x)).mean((2, 3)))


class Transposed(nn.Module):
    """Down and up again with transposed convolutions, in groups too, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 2, 2)
        self.deep = nn.Conv2d(8, 12, 2, 2)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2)
        self.grouped = nn.ConvTranspose2d(16, 8, 2, 2, groups=4)
        self.fc = nn.Linear(8, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        x = torch.cat([skip, self.up(F.relu(self.deep(skip)))], 1)
        return self.fc(F.relu(self.grouped(x)).mean((2, 3)))


class Normalised(nn.Module):
    """Weights computed from others, in every way that torch has."""

    def __init__(self) -> None:
        super().__init__()
        self.weighted = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.spectral = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))
        self.orthogonal = parametrizations.orthogonal(nn.Linear(8, 8))
        self.pruned = nn.Linear(8, 10)
        prune.random_unstructured(self.pruned, "weight", amount=0.3)  # type: ignore[no-untyped-call]
        self.fc = nn.Linear(10, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.spectral(F.relu(self.weighted(x))))
        x = F.relu(self.orthogonal(x.mean((2, 3))))
        return self.fc(F.relu(self.pruned(x)))


class NormalisedByHooks(nn.Module):
    """The same in the older way, by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.weighted = old_weight_norm(nn.Conv2d(3, 8, 3))
        self.spectral = old_spectral_norm(nn.Conv2d(8, 6, 3))
        self.fc = nn.Linear(6, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.spectral(F.relu(self.weighted(x))))
        return self.fc(x.mean((2, 3)))


class Shared(nn.Module):
    """One layer used twice, one weight under two names, constants that are no buffers."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.alias = self.block
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.other.weight = self.block.weight
        self.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
        self.register_buffer("order", torch.arange(7, -1, -1), persistent=False)
        self.fc = nn.Linear(8, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x - self.mean))
        x = F.relu(self.alias(F.relu(self.block(x))))
        x = F.relu(self.other(x)).flatten(2)[:, :, self.order]
        return self.fc(x.amax(2))


HAND_WRITTEN: Final[dict[str, type[nn.Module]]] = {
    model.__name__: model
    for model in (
        Basic, Dense, FusedUnbind, FusedChunk, ThreeLinears, Einsum, BuiltIn, Encoder, Shuffle,
        Gated, SqueezeExcitation, Cbam, Groups, Recurrent, Unshuffled, Transposed, Normalised,
        NormalisedByHooks, Shared,
    )
}  # fmt: skip

"""The backbone of RWKV-SAM: a convolutional start, then attention-free RWKV blocks at 1/16.

Yuan et al.: Mamba or RWKV: Exploring High-Quality and High-Efficiency Segment Anything Model, arXiv 2406.19369. Written from
the paper and from measurements; key names are the authors', equal to their network on the parity bundle with the exact WKV
(their CUDA kernel deviates from its own formula). The published counts leave the work of WKV itself out, and so does the
counter here: 14 blocks of about 12 T C operations against 13 T C^2 of their matrix products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.kernels.wkv import wkv
from edgeseg.students.layers import LayerNorm2d

DEPTH, TAP = 14, 8
"""RWKV blocks, and after how many of them the middle map is taken."""

MLP_RATIO = 2
EPS = 1e-6


class Variant(NamedTuple):
    """Channels of the stem, and of the maps at 1/4, 1/8 and 1/16."""

    stem: int
    dims: tuple[int, int, int]


VARIANTS = {
    "tiny": Variant(32, (32, 64, 192)),
    "small": Variant(64, (64, 128, 384)),
    "base": Variant(128, (128, 256, 768)),
}


class Stem(nn.Module):
    """Two convolutions to half the size."""

    def __init__(self, outer: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, outer, 3, 2, 1)
        self.norm1 = LayerNorm2d(outer, EPS)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, outer, H / 2, W / 2]`."""
        result: Tensor = self.conv2(F.gelu(self.norm1(self.conv1(image))))
        return result


class Shortcut(nn.Module):
    """Average pooling, and a 1x1 convolution where the channels change."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.expand = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / 2, w / 2]`."""
        result: Tensor = self.expand(self.pool(x))
        return result


class MbConv(nn.Module):
    """An inverted residual with one layer norm in front; it widens to 4 times its outputs."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        middle = 4 * outer
        self.shortcut = Shortcut(inner, outer) if stride == 2 else nn.Identity()
        self.pre_norm = LayerNorm2d(inner, EPS)
        self.conv1_1x1 = nn.Conv2d(inner, middle, 1)
        self.conv2_kxk = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle)
        self.conv3_1x1 = nn.Conv2d(middle, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / stride, w / stride]`."""
        y = F.gelu(self.conv2_kxk(F.gelu(self.conv1_1x1(self.pre_norm(x)))))
        result: Tensor = self.shortcut(x) + self.conv3_1x1(y)
        return result


class Pool(nn.Module):
    """The way from 1/8 to the tokens at 1/16."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(inner, EPS)
        self.proj = nn.Conv2d(inner, outer, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / 2, w / 2]`."""
        result: Tensor = self.proj(self.norm(x))
        return result


def neighbours(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """`tokens [B, T, C]` of a map of `size`, each quarter of the channels from the left, right, upper or lower neighbour.

    Beyond the border there are zeros; what four does not divide stays where it is.
    """
    grid = tokens.unflatten(1, size)
    quarter = tokens.shape[2] // 4
    left, right, above, below, rest = grid.split([quarter] * 4 + [tokens.shape[2] - 4 * quarter], 3)
    parts = [
        F.pad(left[:, :, :-1], (0, 0, 1, 0)),
        F.pad(right[:, :, 1:], (0, 0, 0, 1)),
        F.pad(above[:, :-1], (0, 0, 0, 0, 1, 0)),
        F.pad(below[:, 1:], (0, 0, 0, 0, 0, 1)),
    ]
    return torch.cat([*parts, rest] if rest.shape[3] else parts, 3).flatten(1, 2)


class SpatialMix(nn.Module):
    """What attention is elsewhere: every token hears of all others through WKV, gated by its receptance."""

    def __init__(self, dim: int, layer: int) -> None:
        super().__init__()
        depth = layer / (DEPTH - 1)
        share, channel = torch.arange(dim) / (dim - 1), torch.arange(dim) / dim
        self.spatial_decay = nn.Parameter(-5 + 8 * share ** (0.7 + 1.3 * depth))
        zigzag = (torch.arange(dim) + 1) % 3 - 1
        self.spatial_first = nn.Parameter(torch.full((dim,), 0.3).log() + 0.5 * zigzag)
        mixed = channel ** (1 - layer / DEPTH)
        self.spatial_mix_k = nn.Parameter(mixed.view(1, 1, -1).clone())
        self.spatial_mix_v = nn.Parameter((mixed + 0.3 * depth).view(1, 1, -1))
        self.spatial_mix_r = nn.Parameter((channel ** (0.5 * (1 - layer / DEPTH))).view(1, 1, -1))
        self.key, self.value, self.receptance, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`[B, T, C]` to the same shape."""
        near = neighbours(x, size)
        k, v, r = (
            linear(torch.lerp(near, x, mix.to(x.dtype)))
            for linear, mix in (
                (self.key, self.spatial_mix_k),
                (self.value, self.spatial_mix_v),
                (self.receptance, self.spatial_mix_r),
            )
        )
        count = x.shape[1]
        heard = wkv(self.spatial_decay / count, self.spatial_first / count, k, v)
        result: Tensor = self.output(r.sigmoid() * heard)
        return result


class ChannelMix(nn.Module):
    """The feed-forward half of a block, gated too."""

    def __init__(self, dim: int, layer: int) -> None:
        super().__init__()
        mixed = (torch.arange(dim) / dim) ** (1 - layer / DEPTH)
        self.spatial_mix_k = nn.Parameter(mixed.view(1, 1, -1).clone())
        self.spatial_mix_r = nn.Parameter(mixed.view(1, 1, -1).clone())
        self.key = nn.Linear(dim, MLP_RATIO * dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(MLP_RATIO * dim, dim, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`[B, T, C]` to the same shape."""
        near = neighbours(x, size)
        k = F.relu(self.key(torch.lerp(near, x, self.spatial_mix_k.to(x.dtype)))).square()
        result: Tensor = self.receptance(torch.lerp(near, x, self.spatial_mix_r.to(x.dtype))).sigmoid() * self.value(k)
        return result


class RwkvBlock(nn.Module):
    """Spatial mix and channel mix, each a residual scaled per channel."""

    def __init__(self, dim: int, layer: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attn, self.mlp = SpatialMix(dim, layer), ChannelMix(dim, layer)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`[B, T, C]` to the same shape."""
        x = x + self.layer_scale_1 * self.attn(self.norm1(x), size)
        result: Tensor = x + self.layer_scale_2 * self.mlp(self.norm2(x), size)
        return result


class RwkvBackbone(nn.Module):
    """Maps at 1/4, 1/8, 1/16 after block 8 and 1/16 after the last norm; with `context` the third is 1/32 behind the fourth's place.

    variant: `tiny`, `small` or `base`.
    context: leave the middle map out and add a convolutional stage at 1/32.
    dims:    channels of the maps that come out.
    """

    def __init__(self, variant: str, context: bool = False) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise EdgesegError(f"no RWKV backbone {variant!r}; there is {', '.join(VARIANTS)}")
        stem, (first, second, third) = VARIANTS[variant]
        self.dims = (first, second, third, 2 * third if context else third)
        self.stem = Stem(stem)
        self.conv_stages = nn.ModuleList(
            [
                nn.Sequential(MbConv(stem, first, 2), MbConv(first, first, 1)),
                nn.Sequential(MbConv(first, second, 2), *(MbConv(second, second, 1) for _ in range(3))),
            ]
        )
        self.conv_final_pool = Pool(second, third)
        self.layers = nn.ModuleList(RwkvBlock(third, index) for index in range(DEPTH))
        self.final_norm = nn.LayerNorm(third, EPS)
        self.final_layers = MbConv(third, 2 * third, 2) if context else None

    def forward(self, image: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` to four maps."""
        quarter = self.conv_stages[0](self.stem(image))
        eighth = self.conv_stages[1](quarter)
        grid = self.conv_final_pool(eighth)
        size = (grid.shape[2], grid.shape[3])
        tokens = grid.flatten(2).transpose(1, 2)
        middle = tokens
        for index, layer in enumerate(self.layers, 1):
            tokens = layer(tokens, size)
            if index == TAP:
                middle = tokens
        last = _grid(self.final_norm(tokens), size)
        if self.final_layers is not None:
            return [quarter, eighth, last, self.final_layers(last)]
        return [quarter, eighth, _grid(middle, size), last]


def _grid(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """`[B, T, C]` to `[B, C, h, w]`."""
    return tokens.transpose(1, 2).unflatten(2, size)

"""FFNet: a plain ResNet and a plain pyramid, made of convolutions that every integer unit likes.

Mehta et al.: Simple and Efficient Architectures for Semantic Segmentation, arXiv 2206.08236. The mobile form (dBBB), which
enlarges by repeating pixels. Key names are the authors' (Qualcomm-AI-research/FFNet 2291ae7, BSD-3-Clause-Clear).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.students.layers import BasicBlock
from edgeseg.students.student import Claim, Semantic, Stage, Student, register

WIDTHS = (64, 128, 192, 320)
"""Channels of the backbone at 1/8, 1/16, 1/32 and 1/64."""

PYRAMID, MERGED = (64, 128, 128, 256), (96, 96, 64, 32)
"""Head B: channels of the pyramid per scale, and of what each scale hands to the classifier."""


class Slim(nn.Module):
    """The slim ResNet: two strided convolutions, four layers of basic blocks, each halving the size."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(32)
        self.conv1 = nn.Conv2d(32, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inner = 64
        for index, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), 1):
            first = BasicBlock(inner, width, 2)
            setattr(
                self, f"layer{index}", nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(depth - 1)))
            )
            inner = width

    def forward(self, image: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` to maps at 1/8, 1/16, 1/32 and 1/64."""
        x = F.relu(self.bn0(self.conv0(image)))
        x = F.relu(self.bn1(self.conv1(x)))
        maps = []
        for index in range(1, 5):
            x = getattr(self, f"layer{index}")(x)
            maps.append(x)
        return maps


class ConvBNReLU(nn.Module):
    """A convolution with its norm and ReLU."""

    def __init__(self, inner: int, outer: int, kernel: int) -> None:
        super().__init__()
        conv = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False)
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h, w]`."""
        result: Tensor = self.layers(x)
        return result


class Adapter(nn.Module):
    """Brings each backbone map to the channels of the pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter_conv = nn.ModuleList(ConvBNReLU(i, o, 1) for i, o in zip(WIDTHS, PYRAMID, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Each map with its new channels."""
        return [conv(x) for conv, x in zip(self.adapter_conv, maps, strict=True)]


class UpBranch(nn.Module):
    """From coarse to fine: each map is added to the next finer one, and smoothed into what it hands on."""

    NAMES = ("4", "8", "16", "32")  # the authors', from when the first layer did not halve the size

    def __init__(self) -> None:
        super().__init__()
        for index, name in enumerate(self.NAMES):
            if index:
                setattr(self, f"fam_{name}_sm", ConvBNReLU(PYRAMID[index], MERGED[index], 3))
                setattr(self, f"fam_{name}_up", ConvBNReLU(PYRAMID[index], PYRAMID[index - 1], 1))
        self.fam_4 = ConvBNReLU(PYRAMID[0], MERGED[0], 3)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map per scale, from fine to coarse, of `MERGED` channels."""
        made: list[Tensor] = []
        x = maps[-1]
        for index in (3, 2, 1):
            name = self.NAMES[index]
            made.insert(0, getattr(self, f"fam_{name}_sm")(x))
            x = _repeat(getattr(self, f"fam_{name}_up")(x), maps[index - 1]) + maps[index - 1]
        return [self.fam_4(x), *made]


class Join(nn.Module):
    """All scales side by side at the finest one's size."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """`[B, sum of channels, h, w]`."""
        return torch.cat([maps[0], *(_repeat(x, maps[0]) for x in maps[1:])], 1)


class Classifier(nn.Module):
    """Head B: two 3x3 convolutions, both with a bias."""

    def __init__(self, classes: int, middle: int = 256) -> None:
        super().__init__()
        self.last_layer = nn.Sequential(
            nn.Conv2d(sum(MERGED), middle, 3, padding=1),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, classes, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, sum of MERGED, h, w]` to `[B, classes, h, w]`."""
        result: Tensor = self.last_layer(x)
        return result


class Head(nn.Module):
    """Adapter, pyramid, join, classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(Adapter(), UpBranch(), Join(), Classifier(classes))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The backbone's maps to `[B, classes, H / 8, W / 8]`."""
        result: Tensor = self.layers(maps)
        return result


class FFNet(Semantic):
    """FFNet dBBB with the given number of blocks per layer."""

    licence = "BSD-3-Clause-Clear"
    paper = "arXiv 2206.08236"

    def __init__(self, classes: int, depths: Sequence[int]) -> None:
        super().__init__(classes)
        self.backbone_model = Slim(depths)
        self.head = Head(classes)
        self.feature_info = tuple(Stage(width, 8 << index) for index, width in enumerate(WIDTHS))
        for part in self.modules():  # plain on purpose: the authors found it the better start
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.01)
                if part.bias is not None:
                    nn.init.constant_(part.bias, 1e-4)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """The backbone's maps at 1/8, 1/16, 1/32 and 1/64."""
        maps: list[Tensor] = self.backbone_model(image)
        return maps

    def low_logits(self, image: Tensor) -> Tensor:
        """Logits at 1/8."""
        result: Tensor = self.head(self.backbone_model(image))
        return result

    def training_outputs(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """In one pass."""
        self.check_size(image)
        maps = self.forward_features(image)
        return [self.head(maps)], maps


def _repeat(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="nearest")


@register
def ffnet40s(classes: int) -> Student:
    """FFNet-40S dBBB, 13.9 M parameters."""
    student = FFNet(classes, (4, 5, 6, 4))
    student.claims = (
        Claim("parameters", "13.9 M", "Qualcomm AI Hub", params=13_900_000),
        Claim("Cityscapes val mIoU", "79.2", "arXiv 2206.08236"),
        Claim("TFLite on a Galaxy S25, 1024x2048", "float 18.1 ms, INT8 (w8a8) 4.03 ms", "Qualcomm AI Hub tables"),
    )
    return student


@register
def ffnet78s(classes: int) -> Student:
    """FFNet-78S dBBB, 27.5 M parameters."""
    student = FFNet(classes, (6, 12, 12, 8))
    student.claims = (
        Claim("parameters", "27.5 M", "Qualcomm AI Hub", params=27_500_000),
        Claim("Cityscapes val mIoU", "81.3", "arXiv 2206.08236"),
        Claim("TFLite on a Galaxy S25, 1024x2048", "float 21.8 ms, INT8 (w8a8) 4.98 ms", "Qualcomm AI Hub tables"),
    )
    return student

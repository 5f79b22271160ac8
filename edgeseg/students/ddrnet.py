"""DDRNet: two branches, one at 1/8 all the way, one down to 1/64, that exchange what they see.

Hong, Pan, Sun, Jia: Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes,
arXiv 2101.06085. Module names are the authors' key names, so their checkpoints load as they are. Equal to
ydhongHIT/DDRNet de0db31 (MIT) on the parity bundle, the auxiliary head included.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.students.layers import BasicBlock, conv1, conv3, init_convolutions, shortcut
from edgeseg.students.student import Claim, Semantic, Stage, Student, register, upsample

_relu = F.relu


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to twice the channels, and a shortcut; no ReLU at its end."""

    expansion = 2

    def __init__(self, inner: int, middle: int, stride: int, relu: bool) -> None:
        super().__init__()
        outer = middle * self.expansion
        self.conv1 = conv1(inner, middle)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3(middle, middle, stride=stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv1(middle, outer)
        self.bn3 = nn.BatchNorm2d(outer)
        self.downsample = shortcut(inner, outer, stride)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, 2 * middle, h / stride, w / stride]`."""
        y = _relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(_relu(self.bn2(self.conv2(y)))))
        y = y + (x if self.downsample is None else self.downsample(x))
        return _relu(y) if self.relu else y


def _layer(block: type[BasicBlock | Bottleneck], inner: int, width: int, count: int, stride: int = 1) -> nn.Sequential:
    outer = width * block.expansion
    return nn.Sequential(
        *(block(inner if i == 0 else outer, width, stride if i == 0 else 1, relu=i < count - 1) for i in range(count))
    )


def _before(inner: int, outer: int, conv: partial[nn.Conv2d]) -> list[nn.Module]:
    """Pre-activation: the norm and the ReLU come before the convolution."""
    return [nn.BatchNorm2d(inner), nn.ReLU(), conv(inner, outer)]


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: context at 1/128, 1/256, 1/512 and of the whole image, each refined by the one before."""

    POOLS = ((5, 2), (9, 4), (17, 8))

    def __init__(self, inner: int, branch: int, outer: int) -> None:
        super().__init__()
        self.scale0 = nn.Sequential(*_before(inner, branch, conv1))
        for i, (kernel, stride) in enumerate(self.POOLS, 1):
            pool = nn.AvgPool2d(kernel, stride, kernel // 2)
            setattr(self, f"scale{i}", nn.Sequential(pool, *_before(inner, branch, conv1)))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_before(inner, branch, conv1))
        for i in range(1, 5):
            setattr(self, f"process{i}", nn.Sequential(*_before(branch, branch, conv3)))
        self.compression = nn.Sequential(*_before(5 * branch, outer, conv1))
        self.shortcut = nn.Sequential(*_before(inner, outer, conv1))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h, w]`."""
        maps = [self.scale0(x)]
        for i in range(1, 5):
            scale, process = getattr(self, f"scale{i}"), getattr(self, f"process{i}")
            maps.append(process(upsample(scale(x), x.shape[-2:]) + maps[-1]))
        result: Tensor = self.compression(torch.cat(maps, 1)) + self.shortcut(x)
        return result


class Head(nn.Module):
    """Norm, ReLU, 3x3, norm, ReLU, 1x1 to one map per class."""

    def __init__(self, inner: int, middle: int, classes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv1 = conv3(inner, middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, classes, h, w]`."""
        result: Tensor = self.conv2(_relu(self.bn2(self.conv1(_relu(self.bn1(x))))))
        return result


class DDRNet(Semantic):
    """DDRNet of a width and a depth.

    planes: width of the stem; `branch` that of the context module, `head` that of the head.
    depths: residual blocks of layers 1 to 4.
    steps:  names of the steps at 1/16, after each of which the branches exchange what they see.
    """

    licence = "MIT"
    paper = "arXiv 2101.06085"
    multiple = 8

    def __init__(
        self,
        classes: int,
        planes: int,
        branch: int,
        head: int,
        auxiliary: bool,
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        steps: tuple[str, ...] = ("3",),
    ) -> None:
        super().__init__(classes)
        p = planes
        first, second, third, fourth = depths
        self.steps = steps
        self.conv1 = nn.Sequential(
            *(nn.Conv2d(3, p, 3, 2, 1), nn.BatchNorm2d(p), nn.ReLU(inplace=True)),
            *(nn.Conv2d(p, p, 3, 2, 1), nn.BatchNorm2d(p), nn.ReLU(inplace=True)),
        )
        self.layer1 = _layer(BasicBlock, p, p, first)
        self.layer2 = _layer(BasicBlock, p, 2 * p, second, stride=2)
        for index, step in enumerate(steps):
            inner, stride = (2 * p, 2) if index == 0 else (4 * p, 1)
            setattr(self, f"layer{step}", _layer(BasicBlock, inner, 4 * p, third // len(steps), stride))
            setattr(self, f"layer{step}_", _layer(BasicBlock, 2 * p, 2 * p, third // len(steps)))
            setattr(self, f"compression{step}", nn.Sequential(conv1(4 * p, 2 * p), nn.BatchNorm2d(2 * p)))
            setattr(self, f"down{step}", nn.Sequential(conv3(2 * p, 4 * p, stride=2), nn.BatchNorm2d(4 * p)))
        self.layer4 = _layer(BasicBlock, 4 * p, 8 * p, fourth, stride=2)
        self.layer5 = _layer(Bottleneck, 8 * p, 8 * p, 1, stride=2)
        self.layer4_ = _layer(BasicBlock, 2 * p, 2 * p, fourth)
        self.layer5_ = _layer(Bottleneck, 2 * p, 2 * p, 1)
        self.compression4 = nn.Sequential(conv1(8 * p, 2 * p), nn.BatchNorm2d(2 * p))
        self.down4 = nn.Sequential(
            *(conv3(2 * p, 4 * p, stride=2), nn.BatchNorm2d(4 * p), nn.ReLU(inplace=True)),
            *(conv3(4 * p, 8 * p, stride=2), nn.BatchNorm2d(8 * p)),
        )
        self.spp = DAPPM(16 * p, branch, 4 * p)
        self.final_layer = Head(4 * p, head, classes)
        self.seghead_extra = Head(2 * p, head, classes) if auxiliary else None
        self.auxiliary = ("seghead_extra",) if auxiliary else ()
        self.feature_info = (Stage(p, 4), Stage(4 * p, 8), Stage(4 * p, 16), Stage(8 * p, 32), Stage(4 * p, 64))
        init_convolutions(self)

    def _stages(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of `feature_info`, and the 1/8 map that the auxiliary head reads."""
        quarter = self.layer1(self.conv1(image))
        deep = fine = self.layer2(_relu(quarter))
        size = fine.shape[-2:]
        for step in self.steps:
            sixteenth = getattr(self, f"layer{step}")(_relu(deep))
            fine = getattr(self, f"layer{step}_")(_relu(fine))
            deep = sixteenth + getattr(self, f"down{step}")(_relu(fine))
            fine = fine + upsample(getattr(self, f"compression{step}")(_relu(sixteenth)), size)
        early = fine
        thirtysecond = self.layer4(_relu(deep))
        fine = self.layer4_(_relu(fine))
        deep = thirtysecond + self.down4(_relu(fine))
        fine = fine + upsample(self.compression4(_relu(thirtysecond)), size)
        context = self.spp(self.layer5(_relu(deep)))
        fine = upsample(context, size) + self.layer5_(_relu(fine))
        return [quarter, fine, sixteenth, thirtysecond, context], early

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """1/4, 1/8 (both branches joined), 1/16, 1/32, 1/64 (context)."""
        return self._stages(image)[0]

    def low_logits(self, image: Tensor) -> Tensor:
        """Logits at 1/8."""
        result: Tensor = self.final_layer(self._stages(image)[0][1])
        return result

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """The main head and, when built with one, the auxiliary head on the map before the last fusion."""
        return self.training_outputs(image)[0]

    def training_outputs(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """In one pass."""
        self.check_size(image)
        stages, early = self._stages(image)
        heads = [self.final_layer(stages[1])]
        if self.seghead_extra is not None:
            heads.append(self.seghead_extra(early))
        return heads, stages


@register
def ddrnet23_slim(classes: int, auxiliary: bool = False) -> Student:
    """DDRNet-23-slim, 5.7 M parameters."""
    student = DDRNet(classes, planes=32, branch=128, head=64, auxiliary=auxiliary)
    student.claims = (
        Claim("parameters", "6.13 M", "Qualcomm AI Hub card", params=6_130_000),
        Claim("Cityscapes val mIoU", "77.8", "authors' README"),
        Claim("CamVid test mIoU, pretrained on Cityscapes", "74.7 at 230 FPS, 2080 Ti", "arXiv 2101.06085"),
        Claim(
            "INT8 (w8a8) on phones",
            "slower than float on 19 of 19; TFLite 40.6 instead of 77.4 mIoU",
            "Qualcomm AI Hub tables",
        ),
    )
    return student


@register
def ddrnet23(classes: int, auxiliary: bool = False) -> Student:
    """DDRNet-23, 20 M parameters."""
    student = DDRNet(classes, planes=64, branch=128, head=128, auxiliary=auxiliary)
    student.claims = (Claim("Cityscapes val mIoU", "79.5", "authors' README"),)
    return student


@register
def ddrnet39(classes: int, auxiliary: bool = False) -> Student:
    """DDRNet-39, 32 M parameters: deeper, and the branches meet twice at 1/16."""
    student = DDRNet(
        classes, planes=64, branch=128, head=256, auxiliary=auxiliary, depths=(3, 4, 6, 3), steps=("3_1", "3_2")
    )
    student.claims = (Claim("Cityscapes test mIoU", "80.4", "authors' README"),)
    return student

"""MobileNetV3 with the Lite R-ASPP head, in torchvision's form: dilated backbone, global pooling in the head.

Howard et al.: Searching for MobileNetV3, arXiv 1905.02244. Key names are torchvision's, so its weights load as they are.
Equal to torchvision 0.28 on the parity bundle. Two of its habits are kept on purpose: the first block of the last stage
is dilated although it is the one whose stride was removed, and the pooling is global where the paper pools 49x49.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from edgeseg.students.layers import init_convolutions
from edgeseg.students.student import Claim, Semantic, Stage, Student, register, upsample


class Block(NamedTuple):
    """One row of the paper's table: kernel, expanded and output channels, squeeze-excite, hard-swish, stride, dilation."""

    kernel: int
    expanded: int
    outer: int
    squeeze: bool
    hardswish: bool
    stride: int = 1
    dilation: int = 1


LARGE = (
    Block(3, 16, 16, False, False),
    Block(3, 64, 24, False, False, stride=2),
    Block(3, 72, 24, False, False),
    Block(5, 72, 40, True, False, stride=2),
    Block(5, 120, 40, True, False),
    Block(5, 120, 40, True, False),
    Block(3, 240, 80, False, True, stride=2),
    Block(3, 200, 80, False, True),
    Block(3, 184, 80, False, True),
    Block(3, 184, 80, False, True),
    Block(3, 480, 112, True, True),
    Block(3, 672, 112, True, True),
    Block(5, 672, 160, True, True, dilation=2),
    Block(5, 960, 160, True, True, dilation=2),
    Block(5, 960, 160, True, True, dilation=2),
)

SMALL = (
    Block(3, 16, 16, True, False, stride=2),
    Block(3, 72, 24, False, False, stride=2),
    Block(3, 88, 24, False, False),
    Block(5, 96, 40, True, True, stride=2),
    Block(5, 240, 40, True, True),
    Block(5, 240, 40, True, True),
    Block(5, 120, 48, True, True),
    Block(5, 144, 48, True, True),
    Block(5, 288, 96, True, True, dilation=2),
    Block(5, 576, 96, True, True, dilation=2),
    Block(5, 576, 96, True, True, dilation=2),
)


class SqueezeExcite(nn.Module):
    """Each channel scaled by what the whole image says about it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.relu = nn.ReLU(inplace=True)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the same shape."""
        result: Tensor = x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return result


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-excite, project; a shortcut where shape allows."""

    def __init__(self, inner: int, row: Block) -> None:
        super().__init__()
        act = nn.Hardswish if row.hardswish else nn.ReLU
        depthwise = {"stride": row.stride, "dilation": row.dilation, "groups": row.expanded}
        layers: list[nn.Module] = [_conv(inner, row.expanded, 1, act)] if row.expanded != inner else []
        layers.append(_conv(row.expanded, row.expanded, row.kernel, act, **depthwise))
        if row.squeeze:
            layers.append(SqueezeExcite(row.expanded))
        layers.append(_conv(row.expanded, row.outer, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inner == row.outer

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / stride, w / stride]`."""
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class LiteHead(nn.Module):
    """Lite R-ASPP: the deep map gated by the global average, added to a 1/8 map, both already one channel per class."""

    def __init__(self, low: int, high: int, middle: int, classes: int) -> None:
        super().__init__()
        self.cbr = nn.Sequential(nn.Conv2d(high, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True))
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, middle, 1, bias=False), nn.Sigmoid())
        self.low_classifier = nn.Conv2d(low, classes, 1)
        self.high_classifier = nn.Conv2d(middle, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """`low [B, low, h, w]` and `high [B, high, h / 2, w / 2]` to `[B, classes, h, w]`."""
        x = upsample(self.cbr(high) * self.scale(high), low.shape[-2:])
        result: Tensor = self.low_classifier(low) + self.high_classifier(x)
        return result


class LRASPP(Semantic):
    """A MobileNetV3 given by its table, with the Lite R-ASPP head on two of its maps."""

    licence = "BSD-3-Clause"
    paper = "arXiv 1905.02244"

    def __init__(self, classes: int, rows: tuple[Block, ...], low: int) -> None:
        super().__init__(classes)
        last = rows[-1].outer
        layers: list[nn.Module] = [_conv(3, 16, 3, nn.Hardswish, stride=2)]
        layers += [InvertedResidual(16 if i == 0 else rows[i - 1].outer, row) for i, row in enumerate(rows)]
        layers.append(_conv(last, 6 * last, 1, nn.Hardswish))
        self.backbone = nn.Sequential(*layers)
        self.low = low
        self.classifier = LiteHead(rows[low - 1].outer, 6 * last, 128, classes)
        self.feature_info = (Stage(rows[low - 1].outer, 8), Stage(6 * last, 16))
        init_convolutions(self)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """The 1/8 map and the 1/16 map the head reads."""
        low = self.backbone[: self.low + 1](image)
        return [low, self.backbone[self.low + 1 :](low)]

    def low_logits(self, image: Tensor) -> Tensor:
        """Logits at 1/8."""
        result: Tensor = self.classifier(*self.forward_features(image))
        return result

    def training_outputs(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """In one pass."""
        self.check_size(image)
        maps = self.forward_features(image)
        return [self.classifier(*maps)], maps


def _conv(inner: int, outer: int, kernel: int, act: type[nn.Module] | None, **options: int) -> nn.Sequential:
    padding = (kernel - 1) // 2 * options.get("dilation", 1)
    conv = nn.Conv2d(inner, outer, kernel, padding=padding, bias=False, **options)  # type: ignore[arg-type]
    norm = nn.BatchNorm2d(outer, eps=1e-3, momentum=0.01)
    return nn.Sequential(conv, norm, *([] if act is None else [act(inplace=True)]))


def _divisible(channels: int, by: int = 8) -> int:
    """The nearest multiple of `by` that is not more than 10 % below."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded if rounded >= 0.9 * channels else rounded + by


@register
def lraspp_mobilenet_v3_large(classes: int) -> Student:
    """MobileNetV3-Large with Lite R-ASPP, 3.2 M parameters."""
    student = LRASPP(classes, LARGE, low=4)
    student.claims = (
        Claim("parameters, 21 classes", "3,221,538", "torchvision weights' metadata"),
        Claim("COCO val2017, VOC labels, mIoU", "57.9", "torchvision weights' metadata"),
        Claim("Cityscapes val mIoU", "72.4", "TensorFlow DeepLab model zoo"),
    )
    return student


@register
def lraspp_mobilenet_v3_small(classes: int) -> Student:
    """MobileNetV3-Small with Lite R-ASPP, 1.1 M parameters; torchvision's code, which it publishes no weights for."""
    student = LRASPP(classes, SMALL, low=2)
    student.claims = (Claim("Cityscapes val mIoU", "69.0", "TensorFlow DeepLab model zoo"),)
    return student

"""RWKV-Seg: the backbone of RWKV-SAM with a light head of our own, since its authors published none that names classes.

The head brings the maps at 1/8, 1/16 and 1/32 to one width, adds them up from coarse to fine, and refines the sum with two
depthwise blocks: only convolutions, BatchNorm and ReLU, which integer units take.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.students.layers import init_convolutions
from edgeseg.students.rwkv_backbone import RwkvBackbone
from edgeseg.students.student import Semantic, Stage, Student, register, upsample

HEAD = {"tiny": 96, "small": 128, "base": 192}
"""Channels of the head."""

COARSEST = 32


class Separable(nn.Module):
    """Depthwise 3x3 and 1x1, each with its norm, and a shortcut around both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), nn.BatchNorm2d(channels)),
            nn.ReLU(inplace=True),
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the same shape."""
        return F.relu(x + self.body(x))


class Head(nn.Module):
    """From coarse to fine, at the width of the head."""

    def __init__(self, dims: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, channels, 1, bias=False), nn.BatchNorm2d(channels)) for dim in dims
        )
        self.refine = nn.Sequential(Separable(channels), Separable(channels))
        self.classifier = nn.Conv2d(channels, classes, 1)
        init_convolutions(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps from fine to coarse to `[B, classes, h, w]` at the finest one's size."""
        *finer, x = (lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        for each in reversed(finer):
            x = each + upsample(x, each.shape[-2:])
        result: Tensor = self.classifier(self.refine(F.relu(x)))
        return result


class RwkvSeg(Semantic):
    """The backbone with its 1/32 stage, and the head on its last three maps.

    Sizes are padded inside to multiples of 32 with the mean colour, so that 360x480 needs nothing of the caller.
    """

    licence = "Apache-2.0; the authors' own code and weights: S-Lab 1.0, non-commercial"
    paper = "backbone: arXiv 2406.19369; head: edgeseg"
    multiple = 8

    def __init__(self, classes: int, variant: str) -> None:
        super().__init__(classes)
        self.backbone = RwkvBackbone(variant, context=True)
        self.head = Head(self.backbone.dims[1:], HEAD[variant], classes)
        self.feature_info = tuple(Stage(dim, 4 << index) for index, dim in enumerate(self.backbone.dims))

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """1/4, 1/8, 1/16 and 1/32, without what was padded."""
        return self._cut(self._padded(image), image)

    def low_logits(self, image: Tensor) -> Tensor:
        """Logits at 1/8."""
        return self._read(self._padded(image), image)

    def training_outputs(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """In one pass."""
        self.check_size(image)
        maps = self._padded(image)
        return [self._read(maps, image)], self._cut(maps, image)

    def _padded(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        maps: list[Tensor] = self.backbone(F.pad(image, (0, -width % COARSEST, 0, -height % COARSEST)))
        return maps

    def _cut(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        return [
            each[:, :, : -(-height // stage.stride), : -(-width // stage.stride)]
            for each, stage in zip(maps, self.feature_info, strict=True)
        ]

    def _read(self, maps: list[Tensor], image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        logits: Tensor = self.head(maps[1:])
        return logits[:, :, : -(-height // 8), : -(-width // 8)]


@register
def rwkv_seg_tiny(classes: int) -> Student:
    """RWKV-Seg on the tiny backbone, 6 M parameters."""
    return RwkvSeg(classes, "tiny")


@register
def rwkv_seg_small(classes: int) -> Student:
    """RWKV-Seg on the small backbone, 24 M parameters."""
    return RwkvSeg(classes, "small")


@register
def rwkv_seg_base(classes: int) -> Student:
    """RWKV-Seg on the base backbone, 94 M parameters."""
    return RwkvSeg(classes, "base")

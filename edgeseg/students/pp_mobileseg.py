"""PP-MobileSeg: MobileNetV3 blocks, attention along rows and columns of a strided map, and a gated merge of three scales.

Tang et al.: PP-MobileSeg: Explore the Fast and Accurate Semantic Segmentation Model on Mobile Devices, arXiv 2304.05152.
Equal to PaddleSeg d7975e7 (Apache-2.0) on the parity bundle. Two of its habits matter: the hard sigmoid of squeeze-excite
has slope 0.2, the one of the attention 1/6; and since August 2023 the gates of the merge are sigmoids (they were ReLU6,
with the same key names, so older checkouts compute another function).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.students.student import Claim, Semantic, Stage, Student, register, upsample

MERGED = 256
"""Channels after the merge."""

POSITIONS = 16
"""Length of the learnt position codes; other lengths are interpolated."""


class Row(NamedTuple):
    """One block: kernel, expanded and output channels, squeeze-excite, hard-swish instead of ReLU, stride."""

    kernel: int
    expanded: int
    outer: int
    squeeze: bool
    hardswish: bool
    stride: int


@dataclass(frozen=True)
class Variant:
    """A size of the family. `fine`: the merge happens at 1/8 and not at 1/16."""

    stages: tuple[tuple[Row, ...], ...]
    depths: tuple[int, int]
    heads: int
    fine: bool


BASE = Variant(
    (
        (Row(3, 16, 16, True, False, 1), Row(3, 64, 32, False, False, 2), Row(3, 96, 32, False, False, 1)),
        (Row(5, 128, 64, True, True, 2), Row(5, 240, 64, True, True, 1)),
        (Row(5, 384, 128, True, True, 2), Row(5, 384, 128, True, True, 1)),
        (Row(5, 768, 192, True, True, 2), Row(5, 768, 192, True, True, 1)),
    ),
    depths=(3, 3),
    heads=8,
    fine=True,
)
TINY = Variant(
    (
        (Row(3, 16, 16, True, False, 1), Row(3, 64, 32, False, False, 2), Row(3, 48, 24, False, False, 1)),
        (Row(5, 96, 32, True, True, 2), Row(5, 96, 32, True, True, 1)),
        (Row(5, 160, 64, True, True, 2), Row(5, 160, 64, True, True, 1)),
        (Row(3, 384, 128, True, True, 2), Row(3, 384, 128, True, True, 1)),
    ),
    depths=(2, 2),
    heads=4,
    fine=False,
)
KEYS, EXPANSIONS = (16, 24), (2, 4)
"""Channels per key and widening of the MLP, at 1/16 and at 1/32."""


class Conv(nn.Module):
    """A convolution without bias and its norm."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / stride, w / stride]`."""
        result: Tensor = self.bn(self.c(x))
        return result


class SqueezeExcite(nn.Module):
    """Each channel scaled by clip(0.2 x + 0.5) of what the whole image says about it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the same shape."""
        seen = self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True))))
        return x * (0.2 * seen + 0.5).clamp(0, 1)


class Block(nn.Module):
    """MobileNetV3's inverted residual; the expansion is there even where it does not widen."""

    def __init__(self, inner: int, row: Row) -> None:
        super().__init__()
        self.expand_conv = Conv(inner, row.expanded)
        self.bottleneck_conv = Conv(row.expanded, row.expanded, row.kernel, row.stride, groups=row.expanded)
        self.mid_se = SqueezeExcite(row.expanded) if row.squeeze else nn.Identity()
        self.linear_conv = Conv(row.expanded, row.outer)
        self.act = nn.Hardswish() if row.hardswish else nn.ReLU()
        self.residual = row.stride == 1 and inner == row.outer

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / stride, w / stride]`."""
        y = self.act(self.bottleneck_conv(self.act(self.expand_conv(x))))
        y = self.linear_conv(self.mid_se(y))
        result: Tensor = x + y if self.residual else y
        return result


class Blocks(nn.Module):
    """A stage of blocks; the first stage begins with the stem."""

    def __init__(self, inner: int, rows: Sequence[Row]) -> None:
        super().__init__()
        if inner == 3:
            inner = rows[0].outer
            self.conv = Conv(3, inner, 3, stride=2)
        widths = [inner, *(row.outer for row in rows)]
        self.blocks = nn.Sequential(*(Block(width, row) for width, row in zip(widths, rows, strict=False)))

    def forward(self, x: Tensor) -> Tensor:
        """The stage's map."""
        result: Tensor = self.blocks(F.hardswish(self.conv(x)) if hasattr(self, "conv") else x)
        return result


class Positions(nn.Module):
    """A learnt code per place along one side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, channels, POSITIONS))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """`x [B, C, n]` with the codes, interpolated to n places, added."""
        wide = F.interpolate(self.pos_embed[:, :, None], (1, x.shape[2]), mode="bilinear", align_corners=False)
        return x + wide[:, :, 0]


class Attention(nn.Module):
    """Attention along the rows and along the columns of a map of half the size, gated by a detail branch."""

    def __init__(self, dim: int, key: int, heads: int) -> None:
        super().__init__()
        keys, values = heads * key, 2 * heads * key
        self.heads, self.key = heads, key
        self.stride_conv = nn.Sequential(nn.Conv2d(dim, dim, 3, 2, 1, groups=dim), nn.BatchNorm2d(dim))
        self.to_q, self.to_k, self.to_v = Conv(dim, keys), Conv(dim, keys), Conv(dim, values)
        both = 2 * keys + values
        self.dwconv = Conv(both, both, 3, groups=both)
        self.pwconv = Conv(both, dim)
        for name in ("rowq", "rowk", "columnq", "columnk"):
            setattr(self, f"pos_emb_{name}", Positions(keys))
        self.proj_encode_row = nn.Sequential(nn.ReLU6(), Conv(values, values))
        self.proj_encode_column = nn.Sequential(nn.ReLU6(), Conv(values, values))
        self.proj = nn.Sequential(nn.ReLU6(), Conv(values, dim))
        for part in (self.proj_encode_row, self.proj_encode_column, self.proj):
            last = part[1]
            assert isinstance(last, Conv)
            nn.init.zeros_(last.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, dim, h, w]` to the same shape."""
        size = x.shape[-2:]
        x = self.stride_conv(x)
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        detail = self.pwconv(F.relu6(self.dwconv(torch.cat([q, k, v], 1))))
        row = self._along(q.mean(3), k.mean(3), v.mean(3), "row")[..., None]
        column = self._along(q.mean(2), k.mean(2), v.mean(2), "column")[:, :, None]
        along = self.proj_encode_row(row) + self.proj_encode_column(column)
        gate = F.hardsigmoid(self.proj(v + along))
        return upsample(gate * detail, size)

    def _along(self, q: Tensor, k: Tensor, v: Tensor, name: str) -> Tensor:
        """Attention among the n places of one side, `[B, C, n]` each."""
        q, k = getattr(self, f"pos_emb_{name}q")(q), getattr(self, f"pos_emb_{name}k")(k)
        heads = [part.unflatten(1, (self.heads, -1)) for part in (q, k, v)]
        scores = heads[0].transpose(2, 3) @ heads[1] * self.key**-0.5
        return (heads[2] @ scores.softmax(-1).transpose(2, 3)).flatten(1, 2)


class Mlp(nn.Module):
    """1x1, depthwise 3x3, 1x1."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Conv(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = Conv(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, dim, h, w]` to the same shape."""
        result: Tensor = self.fc2(F.relu6(self.dwconv(self.fc1(x))))
        return result


class DropPath(nn.Module):
    """Leaves a residual branch out for some images of a training batch (Huang et al., arXiv 1603.09382)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """`x [B, ...]`, in training with whole images set to zero and the others scaled up."""
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.share
        return x * kept / (1 - self.share)


class Transformer(nn.Module):
    """Attention and MLP blocks."""

    def __init__(self, dim: int, key: int, heads: int, expansion: int, depth: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.Sequential(
            *(TransformerBlock(dim, key, heads, expansion, 0.1 * index / max(1, depth - 1)) for index in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, dim, h, w]` to the same shape."""
        result: Tensor = self.transformer_blocks(x)
        return result


class TransformerBlock(nn.Module):
    """Two residual branches."""

    def __init__(self, dim: int, key: int, heads: int, expansion: int, drop: float) -> None:
        super().__init__()
        self.attn = Attention(dim, key, heads)
        self.mlp = Mlp(dim, dim * expansion)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, dim, h, w]` to the same shape."""
        x = x + self.drop_path(self.attn(x))
        result: Tensor = x + self.drop_path(self.mlp(x))
        return result


class Embedding(nn.Module):
    """A 1x1 convolution and its norm."""

    def __init__(self, inner: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, MERGED, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(MERGED)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, 256, h, w]`."""
        result: Tensor = self.bn(self.conv(x))
        return result


class Merge(nn.Module):
    """The aggregated attention module: maps of three scales, added and gated by one another."""

    def __init__(self, channels: Sequence[int], fine: bool) -> None:
        super().__init__()
        self.fine = fine
        plain, gates = ((0, 2), (1, 2)) if fine else ((0, 1, 2), (0, 1, 2))
        self.embedding_list = nn.ModuleList(Embedding(channels[index]) for index in plain)
        self.act_embedding_list = nn.ModuleList(Embedding(channels[index]) for index in gates)

    def forward(self, eighth: Tensor, sixteenth: Tensor, thirtysecond: Tensor) -> Tensor:
        """Maps at 1/8, 1/16 and 1/32 to `[B, 256, h, w]` at 1/8 when `fine`, else at 1/16."""
        if self.fine:
            size = eighth.shape[-2:]
            first, last = (
                self.act_embedding_list[0](upsample(sixteenth, size)),
                self.act_embedding_list[1](thirtysecond),
            )
            gate = first.sigmoid() * upsample(last.sigmoid(), size)
            body: Tensor = self.embedding_list[0](eighth)
        else:
            size = sixteenth.shape[-2:]
            maps = upsample(eighth, size), sixteenth
            first, second = (act(x).sigmoid() for act, x in zip(self.act_embedding_list, maps, strict=False))
            gate = first * second * upsample(self.act_embedding_list[2](thirtysecond).sigmoid(), size)
            body = self.embedding_list[0](maps[0]) + self.embedding_list[1](maps[1])
        return gate * body + upsample(self.embedding_list[-1](thirtysecond), size)


class StrideFormer(nn.Module):
    """The backbone with the merge at its end."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        widths = [rows[-1].outer for rows in variant.stages]
        self.smb1, self.smb2, self.smb3, self.smb4 = (
            Blocks(inner, rows) for inner, rows in zip([3, *widths], variant.stages, strict=False)
        )
        self.trans1, self.trans2 = (
            Transformer(widths[2 + index], KEYS[index], variant.heads, EXPANSIONS[index], variant.depths[index])
            for index in range(2)
        )
        self.inj_module = Merge(widths[1:], variant.fine)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16 and 1/32."""
        quarter = self.smb1(image)
        eighth = self.smb2(quarter)
        sixteenth = self.trans1(self.smb3(eighth))
        return [quarter, eighth, sixteenth, self.trans2(self.smb4(sixteenth))]


class DecodeHead(nn.Module):
    """A depthwise 1x1, dropout, and the classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear_fuse = Embedding(MERGED, groups=MERGED)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(MERGED, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 256, h, w]` to `[B, classes, h, w]`."""
        result: Tensor = self.conv_seg(self.dropout(F.relu(self.linear_fuse(x))))
        return result


class PPMobileSeg(Semantic):
    """StrideFormer, merge and head.

    upsample: `exact` labels every pixel of the enlarged logits of all classes. `vim`, the authors' valid interpolate
              module, enlarges only the classes that win somewhere at low resolution; it is approximate: a class that
              wins only between low-resolution cells is lost (0.6 % of the pixels with random weights). It changes
              `predict` alone: an artifact with labels baked in is exact either way.
    """

    licence = "Apache-2.0"
    paper = "arXiv 2304.05152"

    def __init__(self, classes: int, variant: Variant, upsample: Literal["exact", "vim"]) -> None:
        super().__init__(classes)
        if upsample not in ("exact", "vim"):
            raise EdgesegError(f"PP-MobileSeg upsamples exact or vim, got {upsample!r}")
        self.valid_only = upsample == "vim"
        self.backbone = StrideFormer(variant)
        self.decode_head = DecodeHead(classes)
        widths = [rows[-1].outer for rows in variant.stages]
        self.feature_info = tuple(Stage(width, 4 << index) for index, width in enumerate(widths))

    @property
    def step(self) -> int:
        """Attention is over maps of 1/64, whose rounded sides PyTorch's exporter cannot compare in smaller steps."""
        return 64

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """1/4, 1/8, 1/16 (after attention), 1/32 (after attention)."""
        maps: list[Tensor] = self.backbone(image)
        return maps

    def low_logits(self, image: Tensor) -> Tensor:
        """Logits at 1/8 (Base) or 1/16 (Tiny)."""
        return self._read(self.forward_features(image))

    def training_outputs(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """In one pass."""
        self.check_size(image)
        maps = self.forward_features(image)
        return [self._read(maps)], maps

    def _read(self, maps: list[Tensor]) -> Tensor:
        result: Tensor = self.decode_head(self.backbone.inj_module(*maps[1:]))
        return result

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB `image [H, W, 3]` of any size to its label map `[H, W]`."""
        if not self.valid_only:
            return super().predict(image)
        labels = valid_interpolate(self.eval().low_logits(self.prepare(image)), image.shape[:2])
        result: NDArray[np.uint8] = labels[0].to(torch.uint8).cpu().numpy()
        return result

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Paddle's names of the statistics of BatchNorm to PyTorch's."""
        names = {"_mean": "running_mean", "_variance": "running_var"}
        return {re.sub(r"(?<=\.)(_mean|_variance)$", lambda m: names[m[1]], key): value for key, value in state.items()}


def valid_interpolate(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Labels `[B, H, W]` from `logits [B, K, h, w]`, of the classes alone that win somewhere at low resolution."""
    valid = logits.argmax(1).unique()
    return valid[upsample(logits[:, valid], size).argmax(1)]


@register
def pp_mobileseg_base(classes: int, upsample: Literal["exact", "vim"] = "exact") -> Student:
    """PP-MobileSeg-Base, 5.9 M parameters."""
    student = PPMobileSeg(classes, BASE, upsample)
    student.claims = (
        Claim("parameters, 150 classes", "5.62 M", "PaddleSeg README", params=5_620_000, classes=150),
        Claim("ADE20K val mIoU", "41.57", "PaddleSeg README"),
        Claim("Snapdragon 855, Paddle Lite, 1 thread, 512x512, with VIM and argmax", "265.5 ms", "PaddleSeg README"),
    )
    return student


@register
def pp_mobileseg_tiny(classes: int, upsample: Literal["exact", "vim"] = "exact") -> Student:
    """PP-MobileSeg-Tiny, 1.5 M parameters."""
    student = PPMobileSeg(classes, TINY, upsample)
    student.claims = (
        Claim(
            "parameters, 150 classes",
            "1.61 M in one table, 1.44 M in the next",
            "PaddleSeg README",
            params=1_610_000,
            classes=150,
        ),
        Claim("ADE20K val mIoU", "36.39", "PaddleSeg README"),
        Claim("Snapdragon 855, Paddle Lite, 1 thread, 512x512, with VIM and argmax", "215.3 ms", "PaddleSeg README"),
    )
    return student

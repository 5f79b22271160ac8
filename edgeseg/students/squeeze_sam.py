"""SqueezeSAM: a U-Net that is told where to look before it looks: boxes and clicks are drawn into two channels of its input.

Varadarajan et al.: SqueezeSAM: User friendly mobile interactive segmentation, arXiv 2312.06736. Equal to the code released by
yformer/EfficientSAM 3477a43 (Apache-2.0) on the parity bundle, key names included; that code is neither of the networks the
paper's versions describe (6 or 19 M parameters). Because prompts are fused early, a prompt costs a whole pass: all that can
be done once per image is to resize it and the image's share of the first convolution, which is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.students.promptable import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT, Promptable
from edgeseg.students.sam_layers import TwoWayBlock, TwoWayTransformer
from edgeseg.students.student import Claim, Stage, Student, register, upsample

WIDTHS = (64, 128, 128, 128, 128, 164, 256, 256)
"""Channels of the encoder from 1/2 to 1/256."""

DIM, MASKS = 256, 3
RADIUS = 5
"""Radius of the disk that a click is drawn as, in pixels of the network's input."""

CLICK_GAIN = 8.0
"""How much larger than PyTorch's the first weights of the clicks' channel are. A disk is 80 of 65,000 pixels and no brighter
than the image around it: without, 400 steps on generated shapes left the masks where they were when the click was moved."""


class ConvNorm(nn.Module):
    """A 3x3 convolution, ReLU, and then the norm."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(inplace=True))
        self.norm = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h, w]`."""
        result: Tensor = self.norm(self.conv(x))
        return result


class DoubleConv(nn.Module):
    """Two of them."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(ConvNorm(inner, outer), ConvNorm(outer, outer))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h, w]`."""
        result: Tensor = self.double_conv(x)
        return result


class Down(nn.Module):
    """Half the size, then two convolutions."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inner, outer))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / 2, w / 2]`."""
        result: Tensor = self.maxpool_conv(x)
        return result


class Encoder(nn.Module):
    """Eight maps."""

    def __init__(self) -> None:
        super().__init__()
        first: list[nn.Module] = [DoubleConv(WIDTHS[0], WIDTHS[0])]
        self.down_layers = nn.ModuleList(first + [Down(i, o) for i, o in pairwise(WIDTHS)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """`[B, 64, h, w]` to maps from fine to coarse."""
        maps = []
        for layer in self.down_layers:
            x = layer(x)
            maps.append(x)
        return maps


class Upsampler(nn.Module):
    """Twice the size by a matrix product: each place becomes four of half the channels."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.upsampler_linear = nn.Sequential(nn.Linear(inner, 4 * (inner // 2)), nn.ReLU(inplace=True))
        self.norm = nn.BatchNorm2d(4 * (inner // 2))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to `[B, C / 2, 2h, 2w]`."""
        wide = self.upsampler_linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(self.norm(wide), 2)


class Up(nn.Module):
    """Enlarge, put beside what the encoder had at that size, two convolutions."""

    def __init__(self, inner: int, skip: int, outer: int) -> None:
        super().__init__()
        self.up = Upsampler(inner)
        self.conv = DoubleConv(inner // 2 + skip, outer)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x [B, C, h, w]` and `skip [B, S, 2h, 2w]` to `[B, outer, 2h, 2w]`."""
        result: Tensor = self.conv(torch.cat([skip, self.up(x)], 1))
        return result


class Decoder(nn.Module):
    """From coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        widths = WIDTHS[::-1]
        self.unet_upscaling_layers = nn.ModuleList(Up(i, o, o) for i, o in pairwise(widths))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's maps to `[B, 64, h, w]`."""
        *finer, x = maps
        for layer, skip in zip(self.unet_upscaling_layers, reversed(finer), strict=True):
            x = layer(x, skip)
        return x


class Mlp(nn.Module):
    """Linear layers with a ReLU each, and a last one without."""

    def __init__(self, hidden: int, outer: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU()) for _ in range(hidden))
        self.fc = nn.Linear(DIM, outer)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., 256]` to `[..., outer]`."""
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.fc(x)
        return result


class Block(TwoWayBlock):
    """SAM's block with two differences: the first one keeps its residual, the others keep the code they add."""

    def among(self, tokens: Tensor, code: Tensor, hidden: Tensor | None) -> Tensor:
        """The tokens among themselves."""
        tokens = tokens if self.first else tokens + code
        return tokens + self.self_attn(tokens, tokens, tokens, hidden)


class Bottleneck(nn.Module):
    """The tokens, and what they and the coarsest map tell each other."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(DIM, partial(Mlp, 1, DIM), Block)
        self.iou_token, self.mask_tokens = nn.Embedding(1, DIM), nn.Embedding(1 + MASKS, DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 256, h, w]` to tokens `[B, 6, 256]` and the map renewed; the last token is where a late click would be."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = F.pad(own, (0, 0, 0, 1)).expand(x.shape[0], -1, -1)
        flat = x.flatten(2).transpose(1, 2)
        tokens, flat = self.transformer(tokens, flat, torch.zeros_like(flat))
        return tokens, flat.transpose(1, 2).reshape(x.shape)


class Masks(nn.Module):
    """The weights that turn features into masks, and the quality."""

    def __init__(self) -> None:
        super().__init__()
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(2, WIDTHS[0]) for _ in range(1 + MASKS))
        self.iou_prediction_head = Mlp(2, 1 + MASKS)
        self.output_hypernetworks_mlps[0].requires_grad_(requires_grad=False)  # of the mask that is left out

    def forward(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and `features [B, 64, h, w]` to masks `[B, 3, h, w]` and quality `[B, 3]`; the first of four is left out."""
        mlps = list(self.output_hypernetworks_mlps)[1:]
        weights = torch.stack([mlp(tokens[:, index]) for index, mlp in enumerate(mlps, 2)], 1)
        masks = (weights @ features.flatten(2)).reshape(features.shape[0], MASKS, *features.shape[2:])
        return masks, self.iou_prediction_head(tokens[:, 0])[:, 1:]


class PatchEmbed(nn.Module):
    """The first convolution, over image and prompt, and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(5, WIDTHS[0], 2, 2), nn.GroupNorm(1, WIDTHS[0]))
        with torch.no_grad():
            self._conv.weight[:, 4].mul_(CLICK_GAIN)

    @property
    def _conv(self) -> nn.Conv2d:
        first = self.proj[0]
        assert isinstance(first, nn.Conv2d)
        return first

    def image(self, image: Tensor) -> Tensor:
        """The image's share of the convolution, `[B, 64, h / 2, w / 2]`."""
        return F.conv2d(image, self._conv.weight[:, :3], self._conv.bias, stride=2)

    def forward(self, image: Tensor, drawn: Tensor) -> Tensor:
        """The image's share and the prompts, `[P, 2, h, w]`, to `[P, 64, h / 2, w / 2]`."""
        # one copy per prompt, made by a product: OpenVINO 2026.4 fuses a plain sum as if both sides had P entries, and fails
        each = image * (drawn[:, :1, :1, :1] * 0 + 1)
        result: Tensor = self.proj[1](each + F.conv2d(drawn, self._conv.weight[:, 3:], stride=2))
        return result


class SqueezeSam(Promptable):
    """The parts together.

    side:      images are resized to this square, whatever their shape; a multiple of 256.
    negatives: draw clicks on the background too, as disks of -1; the original draws none.
    """

    licence = "Apache-2.0"
    paper = "arXiv 2312.06736"
    masks = MASKS
    at_once = 2

    def __init__(self, side: int = 512, negatives: bool = False) -> None:
        super().__init__()
        if side < 256 or side % 256:
            raise EdgesegError(f"SqueezeSAM works on a square whose side is a multiple of 256, got side={side}")
        self.side, self.negatives = side, negatives
        self.patch_embed = PatchEmbed()
        self.unet_encoder = Encoder()
        self.get_iou_predictions_and_mask_tokens = Bottleneck()
        self.unet_decoder = Decoder()
        self.mask_decoder = Masks()
        self.feature_info = tuple(Stage(width, 2 << index) for index, width in enumerate(WIDTHS))

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """The image's share of the first convolution."""
        square = image if image.shape[2:] == (self.side, self.side) else upsample(image, (self.side, self.side))
        return (self.patch_embed.image(square),)

    def draw(self, size: tuple[int, int], points: Tensor, labels: Tensor) -> Tensor:
        """Prompts as pictures `[P, 2, side, side]`: inside the box (everywhere without one), and around the clicks."""
        height, width = size
        places = points * points.new_tensor([self.side / width, self.side / height])
        axis = torch.arange(self.side, device=points.device, dtype=points.dtype)
        low, high = (((labels == kind)[..., None] * places).sum(1) for kind in (TOP_LEFT, BOTTOM_RIGHT))
        inside = (axis >= low[..., None]) & (axis <= high[..., None])  # [P, 2, side], x first
        unbounded = ~(labels == TOP_LEFT).any(1)[:, None, None]
        box = (inside[:, 0, None, :] & inside[:, 1, :, None]) | unbounded
        far = (axis - places[..., None]).square()  # [P, N, 2, side]
        near = far[:, :, 0, None, :] + far[:, :, 1, :, None] <= RADIUS**2
        clicks = (near & (labels == POSITIVE)[..., None, None]).any(1).to(points.dtype)
        if self.negatives:
            clicks = clicks - (near & (labels == NEGATIVE)[..., None, None]).any(1).to(points.dtype)
        return torch.stack([box.to(points.dtype), clicks], 1)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """The encoder's maps from 1/2 to 1/256 of the square, asked for the whole image."""
        nothing = image.new_zeros(len(image), 1, 2), image.new_full((len(image), 1), -1.0)
        return self._look(self.embed(image), (image.shape[2], image.shape[3]), *nothing)

    def _look(self, maps: Sequence[Tensor], size: tuple[int, int], points: Tensor, labels: Tensor) -> list[Tensor]:
        seen: list[Tensor] = self.unet_encoder(self.patch_embed(maps[0], self.draw(size, points, labels)))
        return seen

    def low_masks(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        points: Tensor,
        labels: Tensor,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits at half the square's size and quality; an earlier mask is not read."""
        seen = self._look(maps, size, points, labels)
        tokens, seen[-1] = self.get_iou_predictions_and_mask_tokens(seen[-1])
        masks, quality = self.mask_decoder(tokens, self.unet_decoder(seen))
        return masks, quality

    def enlarge(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        """Bicubic, as the original does."""
        return F.interpolate(masks, list(size), mode="bicubic", align_corners=False)


@register
def squeeze_sam(side: int = 512, negatives: bool = False) -> Student:
    """SqueezeSAM as released, 10.2 M parameters."""
    student = SqueezeSam(side, negatives)
    student.claims = (
        Claim("parameters", "6 M (100 times smaller than SAM)", "arXiv 2312.06736 v1", params=6_000_000),
        Claim("parameters", "19 M (31.6 times smaller than SAM)", "arXiv 2312.06736 v3", params=19_000_000),
        Claim("speed against SAM", "62.5 times", "arXiv 2312.06736 v3"),
    )
    return student

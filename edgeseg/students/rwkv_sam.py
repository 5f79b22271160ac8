"""RWKV-SAM: the RWKV backbone, and SAM's prompt encoder and mask decoder with finer maps mixed in.

Yuan et al.: Mamba or RWKV: Exploring High-Quality and High-Efficiency Segment Anything Model, arXiv 2406.19369; Kirillov et
al.: Segment Anything, arXiv 2304.02643. Written from the papers and from measurements; key names within each part are the
authors', and each part equals theirs on the parity bundles. Three things are done otherwise: the projections of the finer
maps are computed once per image and not once per prompt; any image size is coded, not 1024 alone; and the decoder fits the
tiny backbone too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.students.layers import LayerNorm2d
from edgeseg.students.promptable import ABSENT, PADDING, Promptable
from edgeseg.students.rwkv_backbone import RwkvBackbone
from edgeseg.students.sam_layers import UNSEEN, Mlp, TwoWayTransformer
from edgeseg.students.student import Stage, Student, register

DIM, TOKENS, EPS = 256, 4, 1e-6
"""Channels of the decoder, mask tokens, and the epsilon of norms over maps."""

FINE, MIXED = 32, 64
"""Channels of the fine maps, and of the mix of them inside."""


class Neck(nn.Module):
    """Brings the last map to the decoder's channels."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.out_proj = nn.Sequential(
            *(nn.Conv2d(inner, DIM, 1, bias=False), LayerNorm2d(DIM, EPS)),
            *(nn.Conv2d(DIM, DIM, 3, padding=1, bias=False), LayerNorm2d(DIM, EPS)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, 256, h, w]`."""
        result: Tensor = self.out_proj(x)
        return result


class PositionCode(nn.Module):
    """Random Fourier features of places in 0..1 (Tancik et al., arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, DIM // 2))

    def forward(self, places: Tensor) -> Tensor:
        """`[..., 2]` (x, y) to `[..., 256]`."""
        angle = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos()], -1)


class PromptEncoder(nn.Module):
    """Points and boxes to tokens, an earlier mask to a map."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = PositionCode()
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, DIM) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, DIM)
        self.mask_downscaling = nn.Sequential(
            *(nn.Conv2d(1, 4, 2, 2), LayerNorm2d(4, EPS), nn.GELU()),
            *(nn.Conv2d(4, 16, 2, 2), LayerNorm2d(16, EPS), nn.GELU()),
            nn.Conv2d(16, DIM, 1),
        )
        self.no_mask_embed = nn.Embedding(1, DIM)

    def tokens(self, points: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """`points [P, N, 2]` in pixels of an image of `size` and `labels [P, N]` to `[P, N, 256]`."""
        height, width = size
        code = self.pe_layer((points + 0.5) / points.new_tensor([width, height]))
        kinds = torch.cat([self.not_a_point_embed.weight, *self.point_embeddings.parameters()])
        which = (labels[..., None] == torch.arange(PADDING, 4, device=labels.device)).to(code.dtype)
        there = (labels != PADDING)[..., None].to(code.dtype)
        return code * there + which @ kinds

    def dense(self, before: Tensor | None) -> Tensor:
        """What is added to the image: of mask logits `[P, 1, 4h, 4w]` a map `[P, 256, h, w]`, without any `[1, 256, 1, 1]`."""
        if before is None:
            return self.no_mask_embed.weight[..., None, None]
        result: Tensor = self.mask_downscaling(before)
        return result

    def grid(self, height: int, width: int) -> Tensor:
        """The codes of all places of a map, `[1, h * w, 256]`."""
        device = self.pe_layer.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        code: Tensor = self.pe_layer(places.flatten(0, 1))
        return code[None]


class Hypernetwork(nn.Module):
    """Three linear layers."""

    def __init__(self, outer: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, outer)])

    def forward(self, x: Tensor) -> Tensor:
        """`[P, 256]` to `[P, outer]`."""
        for layer in self.layers[:2]:
            x = F.relu(layer(x))
        result: Tensor = self.layers[2](x)
        return result


class MaskDecoder(nn.Module):
    """SAM's decoder up to the mask features and the weights that turn them into masks."""

    def __init__(self, masks: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(DIM, partial(Mlp, DIM, 2048))
        self.iou_token, self.mask_tokens = nn.Embedding(1, DIM), nn.Embedding(TOKENS, DIM)
        self.output_upscaling = nn.Sequential(
            *(nn.ConvTranspose2d(DIM, 64, 2, 2), LayerNorm2d(64, EPS), nn.GELU()),
            *(nn.ConvTranspose2d(64, FINE, 2, 2), nn.GELU()),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Hypernetwork(FINE) for _ in range(masks))
        self.iou_prediction_head = Hypernetwork(TOKENS)

    def forward(
        self, image: Tensor, place: Tensor, prompt: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`image [P or 1, 256, h, w]`, its codes, `prompt [P, N, 256]`: features `[P, 32, 4h, 4w]`, weights `[P, masks, 32]`, quality."""
        used = len(self.output_hypernetworks_mlps)  # as the authors: tokens that give no mask are not there
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight[:used]])
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt], 1)
        height, width = image.shape[2:]
        if hidden is not None:
            hidden = F.pad(hidden, (len(own), 0))
        tokens, flat = self.transformer(tokens, image.flatten(2).transpose(1, 2), place, hidden)
        features = self.output_upscaling(flat.transpose(1, 2).reshape(flat.shape[0], DIM, height, width))
        mlps = self.output_hypernetworks_mlps
        weights = torch.stack([mlp(tokens[:, 1 + index]) for index, mlp in enumerate(mlps)], 1)
        return features, weights, self.iou_prediction_head(tokens[:, 0])[:, :used]


class HighResolutionDecoder(nn.Module):
    """The mask decoder with the backbone's maps at 1/4 and 1/8 mixed into its features."""

    def __init__(self, dims: Sequence[int], masks: int) -> None:
        super().__init__()
        self.mask_decoder = MaskDecoder(masks)
        self.hr_feat_proj = nn.Sequential(nn.Conv2d(dims[0], MIXED, 3, padding=1), *_rest())
        self.mr_feat_proj = nn.Sequential(nn.ConvTranspose2d(dims[1], MIXED, 2, 2), *_rest())
        self.mix_feat_proj = nn.Sequential(nn.Conv2d(3 * FINE, MIXED, 3, padding=1), *_rest())

    def detail(self, quarter: Tensor, eighth: Tensor) -> Tensor:
        """The share of the fine maps in the mix, `[B, 64, h, w]`: its first convolution is linear, so it is done per image."""
        fine = torch.cat([self.mr_feat_proj(eighth), self.hr_feat_proj(quarter)], 1)
        return F.conv2d(fine, self._mix.weight[:, FINE:], self._mix.bias, padding=1)

    @property
    def _mix(self) -> nn.Conv2d:
        first = self.mix_feat_proj[0]
        assert isinstance(first, nn.Conv2d)
        return first

    def forward(
        self, image: Tensor, place: Tensor, prompt: Tensor, detail: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask logits `[P, masks, 4h, 4w]` and quality `[P, masks]`."""
        features, weights, quality = self.mask_decoder(image, place, prompt, hidden)
        mixed = F.conv2d(features, self._mix.weight[:, :FINE], padding=1) + detail
        features = features + self.mix_feat_proj[1:](mixed)
        masks = (weights @ features.flatten(2)).reshape(features.shape[0], -1, *features.shape[2:])
        return masks, quality


def _rest() -> tuple[nn.Module, ...]:
    return LayerNorm2d(MIXED, EPS), nn.GELU(), nn.Conv2d(MIXED, FINE, 3, padding=1)


class RwkvSam(Promptable):
    """The parts together.

    masks: 1 as published (whose quality head the authors leave untrained), or up to 4; the names follow SAM's.
    """

    licence = "Apache-2.0; the authors' own code and weights: S-Lab 1.0, non-commercial"
    paper = "arXiv 2406.19369"
    multiple = 16
    embedding = "neck"

    def __init__(self, variant: str, masks: int = 1) -> None:
        super().__init__()
        if not 1 <= masks <= TOKENS:
            raise EdgesegError(f"RWKV-SAM answers with 1 to {TOKENS} masks, got masks={masks}")
        self.masks = masks
        self.backbone = RwkvBackbone(variant)
        self.neck = Neck(self.backbone.dims[-1])
        self.prompt_encoder = PromptEncoder()
        self.decoder = HighResolutionDecoder(self.backbone.dims, masks)
        strides = (4, 8, 16, 16)
        self.feature_info = tuple(Stage(dim, at) for dim, at in zip(self.backbone.dims, strides, strict=True))

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """1/4, 1/8, 1/16 after block 8, 1/16 after the last norm."""
        maps: list[Tensor] = self.backbone(image)
        return maps

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """The neck's map at 1/16, and the fine maps' share of the mix at 1/4."""
        quarter, eighth, _, last = self.forward_features(image)
        return self.neck(last), self.decoder.detail(quarter, eighth)

    def low_masks(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        points: Tensor,
        labels: Tensor,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits at 1/4 and quality."""
        image, detail = maps
        prompt = self.prompt_encoder.tokens(points, labels, size)
        place = self.prompt_encoder.grid(*image.shape[2:])
        hidden = (labels == ABSENT).to(image.dtype) * UNSEEN if self.absences else None
        masks, quality = self.decoder(image + self.prompt_encoder.dense(before), place, prompt, detail, hidden)
        return masks, quality

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors keep the decoder's projections beside SAM's decoder; here both are parts of `decoder`."""
        parts = ("mask_decoder.", "hr_feat_proj.", "mr_feat_proj.", "mix_feat_proj.")
        nested = {key.removeprefix("mask_decoder.") if _twice(key) else key: value for key, value in state.items()}
        return {f"decoder.{key}" if key.startswith(parts) else key: value for key, value in nested.items()}


def _twice(key: str) -> bool:
    """A detector that names its decoder `mask_decoder` has the name before each of the decoder's own keys."""
    return key.startswith(("mask_decoder.mask_decoder.", "mask_decoder.hr_", "mask_decoder.mr_", "mask_decoder.mix_"))


@register
def rwkv_sam_tiny(masks: int = 1) -> Student:
    """RWKV-SAM on the tiny backbone, 9 M parameters; the authors' decoder does not fit it, this one does."""
    return RwkvSam("tiny", masks)


@register
def rwkv_sam_small(masks: int = 1) -> Student:
    """RWKV-SAM on the small backbone, 24 M parameters."""
    return RwkvSam("small", masks)


@register
def rwkv_sam_base(masks: int = 1) -> Student:
    """RWKV-SAM on the base backbone, 83 M parameters."""
    return RwkvSam("base", masks)

"""label_map: logits at low resolution to the label of every pixel, as if upsampled bilinearly first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def label_map(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """`logits [B, K, h, w]` to the labels uint8 `[B, H, W]` of their bilinear upsampling to `size` (H, W).

    Raises:
        ValueError: more than 256 classes, which uint8 cannot name.
    """
    import torch
    from torch.nn.functional import interpolate

    if logits.shape[1] > 256:
        raise ValueError(f"label_map returns uint8 and takes at most 256 classes, got {logits.shape[1]}")
    return interpolate(logits, size=size, mode="bilinear", align_corners=align_corners).argmax(1).to(torch.uint8)

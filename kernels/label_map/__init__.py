"""label_map: logits at low resolution to the label of every pixel, as if upsampled bilinearly first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 32
"""Most classes that are enlarged together."""


def label_map(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """`logits [B, K, h, w]` to the labels uint8 `[B, H, W]` of their bilinear upsampling to `size` (H, W).

    Many classes are enlarged and compared a group at a time, so that `[B, K, H, W]` never exists: exact, and of equal logits
    the first class wins either way.

    Raises:
        ValueError: more than 256 classes, which uint8 cannot name.
    """
    import torch
    from torch.nn.functional import interpolate

    if logits.shape[1] > 256:
        raise ValueError(f"label_map returns uint8 and takes at most 256 classes, got {logits.shape[1]}")
    if logits.shape[1] <= GROUP:
        return interpolate(logits, size=size, mode="bilinear", align_corners=align_corners).argmax(1).to(torch.uint8)
    best = labels = None
    for first in range(0, logits.shape[1], GROUP):
        part = interpolate(logits[:, first : first + GROUP], size=size, mode="bilinear", align_corners=align_corners)
        value, index = part.amax(1), part.argmax(1) + first
        if best is None or labels is None:
            best, labels = value, index
        else:
            labels = torch.where(value > best, index, labels)
            best = torch.maximum(best, value)
    assert labels is not None
    return labels.to(torch.uint8)

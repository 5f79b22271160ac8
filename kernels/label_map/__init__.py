"""label_map: logits at low resolution to the label of every pixel, as if upsampled bilinearly first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 256
"""Most classes that a byte can name."""


def label_map(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """`logits [B, K, h, w]` to the labels uint8 `[B, H, W]` of their bilinear upsampling to `size` (H, W).

    The full-size logits never exist. Of equal logits the first class wins; NaN never does, where another class is there.
    Exact, unlike PP-MobileSeg's valid interpolate module. Defined by `reference.label_map_reference`.

    Raises:
        ValueError: no pixel or no class, or more than 256 classes, which uint8 cannot name.
    """
    from edgeseg.kernels.label_map.torch_op import label_map as operator

    if logits.ndim != 4 or not logits.numel() or min(size) < 1:
        raise ValueError(f"label_map takes logits [B, K, h, w] and a size (H, W), got {list(logits.shape)} and {size}")
    if logits.shape[1] > CLASSES:
        raise ValueError(f"label_map returns uint8 and takes at most {CLASSES} classes, got {logits.shape[1]}")
    labels: Tensor = operator(logits, size[0], size[1], align_corners)
    return labels

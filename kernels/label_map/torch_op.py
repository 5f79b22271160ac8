"""label_map as an operator of PyTorch: one node, without a gradient. On a processor it is the C++ of `csrc/label_map.h`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edgeseg.kernels.torch_native import dense, native_or_none


@torch.library.custom_op("edgeseg::label_map", mutates_args=())
def label_map(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """uint8 labels `[B, height, width]` of `logits [B, K, h, w]`."""
    native = native_or_none(logits)
    if native is None:
        full = interpolate(logits, size=(height, width), mode="bilinear", align_corners=align_corners)
        return full.argmax(1).to(torch.uint8)
    labels = torch.empty(logits.shape[0], height, width, dtype=torch.uint8)
    native("label_map", dense(logits), labels, *logits.shape, height, width, align_corners)
    return labels


@label_map.register_fake
def _(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return torch.empty(logits.shape[0], height, width, dtype=torch.uint8, device=logits.device)

"""Layers that more than one student uses, and folding of BatchNorm into the convolution before it."""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from edgeseg.errors import EdgesegError
from edgeseg.students.student import Student

S = TypeVar("S", bound=Student)

conv3 = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
conv1 = partial(nn.Conv2d, kernel_size=1, bias=False)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to the same shape."""
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Without `relu` the last ReLU is left to whoever reads it."""

    expansion = 1

    def __init__(self, inner: int, outer: int, stride: int, relu: bool = True) -> None:
        super().__init__()
        self.conv1 = conv3(inner, outer, stride=stride)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = conv3(outer, outer)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = shortcut(inner, outer, stride)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inner, h, w]` to `[B, outer, h / stride, w / stride]`."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.relu else y


def shortcut(inner: int, outer: int, stride: int) -> nn.Sequential | None:
    """What brings the input of a residual block to the shape of its output; None where that is its shape already."""
    if stride == 1 and inner == outer:
        return None
    return nn.Sequential(conv1(inner, outer, stride=stride), nn.BatchNorm2d(outer))


def init_convolutions(module: nn.Module) -> None:
    """He initialisation over the fan out for convolutions, ones and zeros for norms (He et al., arXiv 1502.01852)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def fuse(student: S) -> S:
    """A copy for inference: training-only heads gone, every BatchNorm that follows a convolution folded into it.

        Conv2d(w, b) -> BatchNorm2d   becomes   Conv2d(w * g / sqrt(var + eps), ...) -> Identity

    A pair is a convolution and the BatchNorm registered right after it; that this is also the order of execution is
    checked by running both networks, and a network that breaks the rule stays as it is. BatchNorms that come before
    their convolution (DDRNet's pre-activation) stay. Published FPS are often of folded networks.
    """
    plain = copy.deepcopy(student).eval()
    for name in plain.auxiliary:
        setattr(plain, name, None)
    plain.auxiliary = ()
    folded = copy.deepcopy(plain)
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if (
                isinstance(conv, nn.Conv2d)
                and type(norm) is nn.BatchNorm2d  # a subclass may do more, such as activate
                and conv.out_channels == norm.num_features
            ):
                setattr(module, first, _fold(conv, norm))
                setattr(module, second, nn.Identity())
    return folded if _same(plain, folded) else plain


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    fused = copy.deepcopy(conv)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fused.weight, fused.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return fused


@torch.inference_mode()
def _same(student: Student, folded: Student) -> bool:
    """Whether both give the same answer to one image."""
    side = max(64, student.multiple)
    parameter = next(student.parameters())
    image = torch.linspace(-2, 2, 3 * side * side, device=parameter.device, dtype=parameter.dtype).view(
        1, 3, side, side
    )
    wanted, got = student.probe(image), folded.probe(image)
    if not wanted.isfinite().all():
        raise EdgesegError(
            f"{student.name} answers with NaN or infinity; its weights are damaged: train or load it again"
        )
    error = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-12))
    return error <= 1e-3  # folding only re-associates float32 products; a wrong pair is off by orders of magnitude

"""`assisted:STUDENT`, a teacher that is shown the labels along with the picture: what it makes of them is easy to follow.

Qiu et al.: Make a strong teacher with label assistance (LAD; the authors' code, cd08406). The label picture is a fourth channel: the
code of each pixel's class plus noise, times 100. While the teacher learns, each image has codes of its own, drawn from N(0, 1), so
that they cannot be learned by heart; when it teaches, they are (k - (K - 1) / 2) / 10 for class k of K. The authors' student is a
network of four channels too, whose fourth is 0; here it is any student. They are for VOC's 22 ids; void, which they do not
have among their ids, is 0 here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.students.student import Semantic, Student, create

SCALE, LEARNING, TEACHING = 100.0, 0.03, 0.02
"""Of the label picture; the standard deviation of its noise while the teacher learns and while it teaches."""


class Assisted(nn.Module):
    """A semantic student whose first convolution has a channel more; without a label picture it sees zeros there."""

    def __init__(self, inner: Semantic) -> None:
        super().__init__()
        self.inner = inner
        self.mean, self.std, self.multiple = inner.mean, inner.std, inner.multiple
        widen(inner)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised `image [B, 3 or 4, H, W]` to logits `[B, classes, h, w]`."""
        return self.inner.low_logits(F.pad(image, (0, 0, 0, 0, 0, 4 - image.shape[1])))


def from_student(name: str, classes: int) -> nn.Module:
    """A student of ours with a channel more, untrained."""
    inner: Any = create(name, classes=classes)
    return Assisted(inner)


def widen(network: nn.Module) -> None:
    """Give the first convolution over an RGB image a fourth channel; the others keep their weights."""
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d) and part.in_channels == 3 and part.groups == 1:
            wide = nn.Conv2d(
                4,
                part.out_channels,
                part.kernel_size,  # type: ignore[arg-type]
                part.stride,  # type: ignore[arg-type]
                part.padding,  # type: ignore[arg-type]
                part.dilation,  # type: ignore[arg-type]
                bias=part.bias is not None,
            )
            with torch.no_grad():
                wide.weight[:, :3] = part.weight
                if part.bias is not None and wide.bias is not None:
                    wide.bias.copy_(part.bias)
            above, _, last = name.rpartition(".")
            setattr(network.get_submodule(above), last, wide)
            return
    raise EdgesegError(f"{type(network).__name__} has no convolution over an RGB image, so it cannot be shown labels")


def is_assisted(student: Student) -> bool:
    """Whether a student takes a label picture."""
    return isinstance(getattr(student, "net", None), Assisted)


def label_picture(labels: Tensor, codes: Tensor, noise: float, seed: int) -> Tensor:
    """Labels `[B, H, W]` as a channel `[B, 1, H, W]`; `codes [B, K]` is the number of each class in each image."""
    known = labels != VOID
    ids = torch.where(known, labels, 0).long()
    drawn = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed)).to(codes)
    picture = codes.gather(1, ids.flatten(1)).view_as(drawn) + noise * drawn
    return (SCALE * picture * known)[:, None]


def fixed_codes(images: int, classes: int, device: torch.device) -> Tensor:
    """The codes `[B, K]` of a teacher that teaches, the same in every image."""
    codes = (torch.arange(classes, device=device, dtype=torch.float32) - (classes - 1) / 2) / 10
    return codes.expand(images, -1)


def drawn_codes(images: int, classes: int, seed: int, device: torch.device) -> Tensor:
    """The codes `[B, K]` of a teacher that learns."""
    return torch.randn(images, classes, generator=torch.Generator().manual_seed(seed)).to(device)

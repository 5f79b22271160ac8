"""What training minimises. Logits `[B, K, H, W]` float, labels `[B, H, W]` with 255 = void, result a scalar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy, mean over the pixels that are not void."""

    __pydantic_config__ = STRICT
    type: Literal["ce"] = "ce"

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        """The loss; `weight [K]` scales each class."""
        least = 1 if weight is None else 1e-12
        return _pixel_loss(logits, labels, weight).sum() / self.counted(labels, weight).clamp_min(least)

    def counted(self, labels: Tensor, weight: Tensor | None) -> Tensor:
        """What the loss is a mean over: pixels that are not void, or the sum of their classes' weights."""
        valid = labels != VOID
        if weight is None:
            return valid.sum()
        return torch.bincount(labels[valid].long(), minlength=len(weight)).to(weight.dtype) @ weight


@dataclass(frozen=True)
class Ohem:
    """Cross-entropy over the hard pixels only (Shrivastava et al., arXiv 1604.03540).

    threshold: pixels whose true class has a lower probability are hard.
    keep:      at least this share of the pixels is kept, hardest first.
    """

    __pydantic_config__ = STRICT
    type: Literal["ohem"] = "ohem"
    threshold: float = 0.9
    keep: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.threshold <= 1 and 0 <= self.keep <= 1):
            raise EdgesegError(f"ohem: threshold is in (0, 1] and keep in [0, 1], got {self.threshold} and {self.keep}")

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        """The loss; which pixels are hard is decided before the class weights."""
        plain = _pixel_loss(logits, labels, None)
        valid = labels != VOID
        least = int(valid.sum() * self.keep)
        hard = valid & (plain.detach() > -math.log(self.threshold))
        if int(hard.sum()) < least:
            cut = plain.detach()[valid].topk(least).values[-1]
            hard = valid & (plain.detach() >= cut)
        loss = plain if weight is None else plain * weight[labels.long().clamp_max(len(weight) - 1)]
        return (loss * hard).sum() / hard.sum().clamp_min(1)


@dataclass(frozen=True)
class CrossEntropyLovasz:
    """Cross-entropy plus Lovasz-softmax, which follows IoU itself (Berman et al., arXiv 1705.08790)."""

    __pydantic_config__ = STRICT
    type: Literal["ce_lovasz"] = "ce_lovasz"
    cross_entropy: float = 0.8
    lovasz: float = 0.2

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        """The weighted sum."""
        plain = CrossEntropy()(logits, labels, weight)
        return self.cross_entropy * plain + self.lovasz * lovasz_softmax(logits.softmax(1), labels)


Loss: TypeAlias = CrossEntropy | Ohem | CrossEntropyLovasz


@dataclass(frozen=True)
class MaskLoss:
    """Focal and dice loss of the best of the masks a prompt is answered with, and the error of the estimated qualities.

    Focal loss of Lin et al., arXiv 1708.02002. Kirillov et al., arXiv 2304.02643, weigh it 20 to 1: with few photos and from
    scratch that taught every student here to answer with nothing (0.1 % mIoU after 20 epochs on 91 photos, 18 % with 2 to 1).

    others: the share of the loss that is the mean over all masks, 0..1 (Rupprecht et al., arXiv 1612.00197). With 0 the masks
            become answers to different questions (the part, the whole), and the estimated quality has to know which one was
            meant; with 1 each is the best answer to a single click that can be given.
    """

    __pydantic_config__ = STRICT
    type: Literal["mask"] = "mask"
    focal: float = 2.0
    dice: float = 1.0
    quality: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0
    others: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.others <= 1:
            raise EdgesegError(f"mask loss: others is a share within 0..1, got {self.others}")

    def __call__(self, masks: Tensor, quality: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
        """Logits `masks [P, M, H, W]`, `quality [P, M]`, `truth [P, H, W]` of 0 and 1, to a scalar.

        known: `[P, H, W]`, where it is known what is true; other pixels count nothing. All of them by default.

        Prompts without an object count nothing. Which mask is the best is decided by the loss itself; the estimated
        quality of each is held to the IoU it really has.
        """
        wanted = truth[:, None].to(masks.dtype)
        there = wanted.flatten(1).any(1).to(masks.dtype)
        seen = None if known is None else known[:, None].to(masks.dtype)
        each = self.focal * focal_loss(masks, wanted, self.alpha, self.gamma, seen) + self.dice * dice_loss(
            masks, wanted, seen
        )
        best = (1 - self.others) * each.min(1).values + self.others * each.mean(1)
        made = (masks.detach() > 0) if seen is None else (masks.detach() > 0) & (seen > 0)
        guess = (quality - mask_iou(made, wanted > 0)).square().mean(1)
        return ((best + self.quality * guess) * there).sum() / there.sum().clamp_min(1)


def focal_loss(masks: Tensor, truth: Tensor, alpha: float, gamma: float, known: Tensor | None = None) -> Tensor:
    """`[P, M]`: -a (1 - p)^gamma log p, p the probability of what is true, a = alpha inside and 1 - alpha outside; mean over known pixels."""
    loss = F.binary_cross_entropy_with_logits(masks, truth.expand_as(masks), reduction="none")
    weight = alpha * truth + (1 - alpha) * (1 - truth)
    each = weight * (1 - (-loss).exp()) ** gamma * loss
    if known is None:
        return each.flatten(2).mean(2)
    return (each * known).flatten(2).sum(2) / known.flatten(2).sum(2).clamp_min(1)


def dice_loss(masks: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """`[P, M]`: 1 - (2 sum p t + 1) / (sum p + sum t + 1), p = sigmoid (Milletari et al., arXiv 1606.04797), over known pixels."""
    p, t = (masks.sigmoid() if known is None else masks.sigmoid() * known).flatten(2), truth.flatten(2)
    return 1 - (2 * (p * t).sum(2) + 1) / (p.sum(2) + t.sum(2) + 1)


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """IoU `[P, M]` of boolean `masks [P, M, H, W]` and `truth [P, 1, H, W]`; two empty masks are equal."""
    both, either = (masks & truth).flatten(2).sum(2), (masks | truth).flatten(2).sum(2)
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Lovasz extension of 1 - IoU, mean over the classes that occur in the batch.

    Per class, with errors m sorted downwards and g the truth in that order: sum m_i (J_i - J_{i-1}),
    J_i = 1 - (G - cumsum g) / (G + cumsum (1 - g)).
    """
    valid = labels.flatten() != VOID
    truth = labels.flatten()[valid]
    flat = probabilities.transpose(0, 1).flatten(1)[:, valid]
    losses = []
    for index in torch.unique(truth).tolist():
        member = (truth == index).to(flat.dtype)
        errors, order = (member - flat[index]).abs().sort(descending=True)
        member = member[order]
        total = member.sum()
        jaccard = 1 - (total - member.cumsum(0)) / (total + (1 - member).cumsum(0))
        losses.append(errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1)))
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


def _pixel_loss(logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    return F.cross_entropy(logits, labels.long(), weight=weight, ignore_index=VOID, reduction="none")

"""Learning to use labels as a hint, without learning them by heart: how a label-assisted teacher is trained and judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.data.base import Image, Labels, Split
from edgeseg.data.loader import evaluation
from edgeseg.kernels.label_map import label_map
from edgeseg.losses import Loss
from edgeseg.metrics import Meter
from edgeseg.students import Semantic, Student, upsample
from edgeseg.students.assisted import LEARNING, TEACHING, drawn_codes, fixed_codes, label_picture
from edgeseg.train.teaching.logits import divergence

AGREEMENT, TEMPERATURE = 5.0, 4.0


def assisted_loss(
    module: Any, student: Student, images: Tensor, labels: Tensor, loss: Loss, weight: Tensor | None, seed: int
) -> Tensor:
    """Two draws of codes for the same images: the labels' loss of both, and 5 times how far they are from each other.

    That distance is CWD (arXiv 2011.13256, T = 4) from each to the other, which is held still.
    """
    seen, drawn = student.normalise(images), []
    for turn in (0, 1):
        codes = drawn_codes(len(images), student.classes, seed + 2 * turn, images.device)
        drawn.append(torch.cat([seen, label_picture(labels, codes, LEARNING, seed + 2 * turn + 1)], 1))
    (both,) = module.training_logits(torch.cat(drawn))
    pair = both.float().contiguous().chunk(2)
    of_labels = torch.stack([loss(upsample(one, labels.shape[-2:]), labels, weight) for one in pair]).sum()
    apart = sum(
        TEMPERATURE**2 * divergence(one, other.detach(), TEMPERATURE, (2, 3)).mean()
        for one, other in (pair, pair[::-1])
    )
    total: Tensor = of_labels + AGREEMENT * apart
    return total


def with_labels(student: Student, normal: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Normalised images `[B, 3, H, W]` and the label picture of a teacher that teaches, `[B, 4, H, W]`."""
    codes = fixed_codes(len(normal), student.classes, normal.device)
    return torch.cat([normal, label_picture(labels, codes, TEACHING, seed).to(normal.dtype)], 1)


@torch.inference_mode()
def label(student: Semantic, image: Image, truth: Labels) -> Labels:
    """What the teacher makes of a picture whose labels it is shown."""
    normal = student.normalise(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None])
    normal = normal.to(next(student.parameters()).device)
    seen = with_labels(student, normal, torch.from_numpy(truth)[None].to(normal.device))
    height, width = truth.shape
    seen = F.pad(seen, (0, -width % student.multiple, 0, -height % student.multiple))
    made = label_map(student.eval().low_logits(seen), (seen.shape[-2], seen.shape[-1]))
    result: Labels = made[0, :height, :width].cpu().numpy()
    return result


def measure_assisted(student: Semantic, split: Split, classes: int) -> Meter:
    """Every image of a split, labelled with its labels in sight, and counted: how clear a teacher this is, not how good a student."""
    meter = Meter(classes)
    for image, truth, _ in evaluation(split, workers=1):
        meter.add(truth, label(student, image, truth))
    return meter

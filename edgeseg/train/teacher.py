"""A frozen teacher: what it makes of the images of a batch, in the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.runs import load_run, read_card
from edgeseg.students import Semantic, upsample
from edgeseg.train.teaching import Teaching


class Teacher:
    """A semantic run that answers in evaluation mode, without gradients.

    Raises:
        EdgesegError: it is promptable, or of other weights than the recipe says, or does not know a class of the data.
    """

    def __init__(self, teaching: Teaching, class_names: Sequence[str], device: torch.device | str = "cpu") -> None:
        folder = Path(teaching.teacher)
        card = read_card(folder)
        if card.sha256 != teaching.sha256:
            raise EdgesegError(
                f"the teacher {folder} has other weights than the recipe says; name the right one, or start anew"
            )
        network = load_run(folder, trust=teaching.trust)
        if not isinstance(network, Semantic):
            raise EdgesegError(
                f"the teacher {folder} is promptable; a student that names classes learns from one that does"
            )
        self.groups = groups(network.class_names, class_names, teaching.classes)
        self.network = network.to(device).eval().requires_grad_(requires_grad=False)
        if torch.device(device).type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def logits(self, images: Tensor, size: Sequence[int], views: Tensor | None = None) -> Tensor:
        """uint8 `images [B, 3, H, W]` to logits `[B, K, h, w]` of the data's classes at `size` (height, width)."""
        height, width = images.shape[-2:]
        fill = (0, -width % self.network.multiple, 0, -height % self.network.multiple)
        logits = self.network.low_logits(F.pad(self.network.normalise(images), fill)).float()
        if any(fill):
            whole = (height + fill[3], width + fill[1])
            logits = upsample(logits, whole)[..., :height, :width]
        if logits.shape[-2:] != tuple(size):
            logits = upsample(logits, size)
        return regroup(logits, self.groups)


def regroup(logits: Tensor, found: Sequence[Sequence[int]]) -> Tensor:
    """A teacher's logits `[B, K, h, w]` in the classes of the data, by what `groups` found."""
    if all(len(group) == 1 for group in found):
        return logits[:, [group[0] for group in found]]
    # several classes of the teacher are one of the data: their probabilities add up
    return torch.stack([logits[:, group].logsumexp(1) for group in found], 1)


def groups(teachers: Sequence[str], wanted: Sequence[str], named: dict[str, str]) -> list[list[int]]:
    """For every class of the data, which classes of the teacher it is; names are compared without case.

    Raises:
        EdgesegError: a name that neither has, or a class of the data that no class of the teacher is.
    """
    for name, target in named.items():
        for one, known, whose in ((name, teachers, "teacher"), (target, wanted, "data")):
            if one not in known:
                raise EdgesegError(
                    f"the class map names {one!r}, which the {whose} does not have; there is {', '.join(known)}"
                )
    ours = {name.casefold(): name for name in wanted}
    found: dict[str, list[int]] = {name: [] for name in wanted}
    for index, name in enumerate(teachers):
        ours_is = named.get(name) or ours.get(name.casefold())
        if ours_is is not None:
            found[ours_is].append(index)
    if missing := [name for name, group in found.items() if not group]:
        raise EdgesegError(
            f"the teacher does not know {', '.join(missing)}; say which of its classes that is with --class-map "
            f"(it knows {', '.join(teachers)})"
        )
    return list(found.values())

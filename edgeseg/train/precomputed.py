"""A teacher that looked at every image beforehand (`edgeseg embed`): a student learns from what was written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.embed import Embedded
from edgeseg.errors import EdgesegError
from edgeseg.train.teacher import groups, regroup
from edgeseg.train.teaching import Teaching


class Precomputed:
    """The logits of a teacher for the images `names`, moved as the views of them are.

    The teacher saw whole images, not the crops: it knows more of what is around, and nothing of changed colours. Where a view
    reaches beyond its image, the nearest logits stand.

    Raises:
        EdgesegError: it was promptable, or had other weights than the recipe says, or does not know a class of the data, or
            never saw one of the images.
    """

    def __init__(
        self, teaching: Teaching, class_names: Sequence[str], names: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        self.embedded, self.names, self.device = Embedded(Path(teaching.teacher)), names, device
        manifest = self.embedded.manifest
        if manifest.sha256 != teaching.sha256:
            raise EdgesegError(
                f"{teaching.teacher} is of another teacher than the recipe says; name the right one, or start anew"
            )
        if manifest.task != "semantic":
            raise EdgesegError(
                f"{teaching.teacher} was made by a promptable teacher; a student that names classes learns from one that does"
            )
        self.groups = groups(manifest.class_names, class_names, teaching.classes)
        self.places = self.embedded.places(names)

    @torch.no_grad()
    def logits(self, images: Tensor, size: Sequence[int], views: Tensor | None) -> Tensor:
        """The logits `[B, K, h, w]` of the data's classes at `size`, for uint8 `images [B, 3, H, W]` that are `views [B, 7]`."""
        assert views is not None  # the loop's batches have them
        made = [self._view(view, images.shape[-2:], size) for view in views.tolist()]
        return regroup(torch.cat(made), self.groups)

    def _view(self, view: Sequence[float], crop: Sequence[int], size: Sequence[int]) -> Tensor:
        index, height, width, across, left, down, top = view
        look = self.embedded.look(self.places[int(index)])
        if look.image != (height, width):
            raise EdgesegError(
                f"{self.names[int(index)]} is {height:.0f}x{width:.0f}, but was {look.image[0]}x{look.image[1]} when the teacher saw it"
            )
        # the middle of each cell of the student's grid, in pixels of the image, then from -1 to 1 over what the logits cover
        x = across * (torch.arange(size[1], dtype=torch.float64) + 0.5) * crop[1] / size[1] + left
        y = down * (torch.arange(size[0], dtype=torch.float64) + 0.5) * crop[0] / size[0] + top
        rows, columns = torch.meshgrid(2 * y / look.seen[0] - 1, 2 * x / look.seen[1] - 1, indexing="ij")
        grid = torch.stack([columns, rows], -1)[None].float().to(self.device)
        logits = torch.from_numpy(look.array)[None].to(self.device).float()
        return F.grid_sample(logits, grid, mode="bilinear", padding_mode="border", align_corners=False)

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
    """What a teacher made of the images `names`, moved as the views of them are.

    The teacher saw whole images, not the crops: it knows more of what is around, and nothing of changed colours. Where a view
    reaches beyond its image, what is nearest stands.

    Raises:
        EdgesegError: it had other weights than the recipe says, or was of another kind than `task`, or never saw one of the images.
    """

    def __init__(self, teaching: Teaching, task: str, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.embedded, self.names, self.device = Embedded(Path(teaching.teacher)), names, device
        manifest = self.embedded.manifest
        if manifest.sha256 != teaching.sha256:
            raise EdgesegError(
                f"{teaching.teacher} is of another teacher than the recipe says; name the right one, or start anew"
            )
        if manifest.task != task:
            learns = {"semantic": "names classes", "promptable": "takes prompts"}[task]
            raise EdgesegError(
                f"{teaching.teacher} was made by a {manifest.task} teacher; a student that {learns} learns from one that does"
            )
        self.places = self.embedded.places(names)

    @torch.no_grad()
    def maps(self, crop: Sequence[int], size: Sequence[int], views: Tensor | None) -> Tensor:
        """`[B, C, h, w]` at `size`, for the `views [B, 7]` of (height, width) `crop`."""
        assert views is not None  # the loop's batches have them
        return torch.cat([self._view(view, crop, size) for view in views.tolist()])

    def channels(self) -> int:
        """C."""
        return self.embedded.look(self.places[0]).array.shape[0]

    def _view(self, view: Sequence[float], crop: Sequence[int], size: Sequence[int]) -> Tensor:
        index, height, width, across, left, down, top = view
        look = self.embedded.look(self.places[int(index)])
        if look.image != (height, width):
            raise EdgesegError(
                f"{self.names[int(index)]} is {height:.0f}x{width:.0f}, but was {look.image[0]}x{look.image[1]} when the teacher saw it"
            )
        # the middle of each cell of the student's grid, in pixels of the image, then from -1 to 1 over what the array covers
        x = across * (torch.arange(size[1], dtype=torch.float64) + 0.5) * crop[1] / size[1] + left
        y = down * (torch.arange(size[0], dtype=torch.float64) + 0.5) * crop[0] / size[0] + top
        rows, columns = torch.meshgrid(2 * y / look.seen[0] - 1, 2 * x / look.seen[1] - 1, indexing="ij")
        grid = torch.stack([columns, rows], -1)[None].float().to(self.device)
        stored = torch.from_numpy(look.array)[None].to(self.device).float()
        return F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)


class PrecomputedLogits(Precomputed):
    """The logits of a semantic teacher, in the data's classes.

    Raises:
        EdgesegError: as above, or it does not know a class of the data.
    """

    def __init__(
        self, teaching: Teaching, class_names: Sequence[str], names: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(teaching, "semantic", names, device)
        self.groups = groups(self.embedded.manifest.class_names, class_names, teaching.classes)

    def logits(self, images: Tensor, size: Sequence[int], views: Tensor | None) -> Tensor:
        """The logits `[B, K, h, w]` of the data's classes at `size`, for uint8 `images [B, 3, H, W]` that are `views [B, 7]`."""
        return regroup(self.maps(images.shape[-2:], size, views), self.groups)

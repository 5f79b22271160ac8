"""A teacher that looked at every image beforehand (`edgeseg embed`): a student learns from what was written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.data.base import Split
from edgeseg.embed import Embedded
from edgeseg.embed.work import pixels_of
from edgeseg.errors import EdgesegError
from edgeseg.train.teacher import Joined
from edgeseg.train.teaching import Teaching

COMPARED = 4
"""Images that are looked at once more, to see that they are those that the teacher saw."""


class Precomputed:
    """What a teacher made of the images `names`, moved as the views of them are.

    The teacher saw whole images, not the crops: it knows more of what is around, and nothing of changed colours. Where a view
    reaches beyond its image, what is nearest stands.

    Raises:
        EdgesegError: it had other weights than the recipe says, or was of another kind than `task`, or never saw one of the images,
            or saw other images of the same names.
    """

    def __init__(self, teaching: Teaching, task: str, split: Split, device: torch.device | str = "cpu") -> None:
        self.embedded, self.names, self.device = Embedded(Path(teaching.teacher)), split.names, device
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
        self.places = self.embedded.places(self.names)
        for index in np.linspace(0, len(split) - 1, min(COMPARED, len(split))).astype(int).tolist():
            seen = self.embedded.look(self.places[index]).pixels
            if seen and seen != pixels_of(split.image(index)):
                raise EdgesegError(
                    f"{self.names[index]} is another picture than the one of that name that the teacher of {teaching.teacher} saw: "
                    f"that is {manifest.split} of {manifest.data}; embed the images that are learned from"
                )

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
        EdgesegError: as above, or it does not know a class of the data, or saw nothing else than classes that it leaves out.
    """

    def __init__(
        self, teaching: Teaching, class_names: Sequence[str], split: Split, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(teaching, "semantic", split, device)
        self.joined = Joined(self.embedded.manifest.class_names, class_names, teaching.classes)

    def logits(self, images: Tensor, size: Sequence[int], views: Tensor | None) -> Tensor:
        """The logits `[B, K, h, w]` of the data's classes at `size`, for uint8 `images [B, 3, H, W]` that are `views [B, 7]`."""
        return self.joined(self.maps(images.shape[-2:], size, views))

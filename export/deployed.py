"""The networks as they are deployed: BatchNorm folded, no training head, and what is baked in around them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.kernels.label_map import label_map
from edgeseg.manifest import Decoder, InputSpec, OutputSpec
from edgeseg.students import Promptable, Semantic, Student, fuse, upsample
from edgeseg.students.promptable import best_mask

BAKES = ("pre", "labels")
"""`pre`: uint8 RGB in, normalised inside. `labels`: upsampling and argmax (or the best mask) inside, uint8 out."""


class Network(nn.Module):
    """One graph to export, at one size (height, width).

    outputs: their names, in order.
    dynamic: input -> axis -> name, for the axes whose length is free.
    """

    outputs: list[str]
    dynamic: dict[str, dict[int, str]]

    def __init__(self, student: Student, size: tuple[int, int], bake: Iterable[str] = ()) -> None:
        super().__init__()
        self.bake = [name for name in BAKES if name in set(bake)]
        if unknown := set(bake) - set(BAKES):
            raise EdgesegError(f"cannot bake {', '.join(sorted(unknown))}; there is {' and '.join(BAKES)}")
        self.size = size
        self.student = fuse(student)
        self.dynamic = {}
        student.check_size(torch.empty(1, 3, *size, device="meta"))

    def feeds(self) -> dict[str, Tensor]:
        """Inputs of the right kind, by name, in order."""
        raise TypeError(f"{type(self).__name__} does not say what it takes")


class ImageNetwork(Network):
    """A graph that takes the image."""

    scale: Tensor
    shift: Tensor

    def __init__(self, student: Student, size: tuple[int, int], bake: Iterable[str] = ()) -> None:
        super().__init__(student, size, bake)
        scale = [1 / (255 * std) for std in student.std]
        shift = [mean / std for mean, std in zip(student.mean, student.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def normalised(self, image: Tensor) -> Tensor:
        """The input as the student takes it."""
        if "pre" not in self.bake:
            return image
        planes = image.permute(0, 3, 1, 2).contiguous()  # else pooling is written for strides that ONNX does not have
        return planes.float() * self.scale - self.shift

    def feeds(self) -> dict[str, Tensor]:
        """The image."""
        spec = self.input_spec()
        return {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))}

    def input_spec(self) -> InputSpec:
        """What goes in."""
        baked = "pre" in self.bake
        height, width = self.size
        return InputSpec(
            name="image",
            shape=[1, height, width, 3] if baked else [1, 3, height, width],
            layout="NHWC" if baked else "NCHW",
            dtype="uint8" if baked else "float32",
            colour="RGB",
            mean=self.student.mean,
            std=self.student.std,
            baked=self.bake,
        )


class Deployed(ImageNetwork):
    """A semantic student: an image in, logits or labels out."""

    student: Semantic

    def __init__(self, student: Semantic, size: tuple[int, int], bake: Iterable[str] = ()) -> None:
        super().__init__(student, size, bake)
        self.outputs = [self.output_spec().name]

    def forward(self, image: Tensor) -> Tensor:
        """The input and output that `input_spec` and `output_spec` describe."""
        low = self.student.low_logits(self.normalised(image))
        return label_map(low, self.size) if "labels" in self.bake else upsample(low, self.size)

    def output_spec(self) -> OutputSpec:
        """What comes out."""
        if "labels" in self.bake:
            return OutputSpec(name="labels", kind="labels", shape=[1, *self.size], dtype="uint8")
        return OutputSpec(name="logits", kind="logits", shape=[1, self.student.classes, *self.size], dtype="float32")


class DeployedEncoder(ImageNetwork):
    """The part of a promptable student that looks at the image: its maps out."""

    student: Promptable

    def __init__(self, student: Promptable, size: tuple[int, int], bake: Iterable[str] = ()) -> None:
        super().__init__(student, size, bake)
        with torch.inference_mode():
            self.maps = self(*self.feeds().values())
        self.outputs = [f"map_{index}" for index in range(len(self.maps))]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """What `Promptable.embed` gives."""
        return self.student.embed(self.normalised(image))


class DeployedDecoder(Network):
    """The part of a promptable student that answers prompts, any number of them at once."""

    student: Promptable

    def __init__(self, encoder: DeployedEncoder) -> None:
        super().__init__(encoder.student, encoder.size, encoder.bake)
        self.maps = dict(zip(encoder.outputs, encoder.maps, strict=True))
        self.outputs = ["masks", "quality"]
        self.dynamic = {"points": {0: "prompts", 1: "places"}, "labels": {0: "prompts", 1: "places"}}
        self.eval()

    def forward(self, *feeds: Tensor) -> tuple[Tensor, Tensor]:
        """Maps, `points [P, N, 2]` and `labels [P, N]` to masks as `output_spec` says and `quality [P, masks]`."""
        *maps, points, labels = feeds
        low, quality = self.student.low_masks(maps, self.size, points, labels)
        masks = self.student.enlarge(low, self.size)
        if "labels" not in self.bake:
            return masks, quality
        return (best_mask(masks, quality)[:, 0] > 0).to(torch.uint8), quality

    def feeds(self) -> dict[str, Tensor]:
        """The maps of a grey image and two prompts of three places."""
        height, width = self.size
        points = torch.tensor([[0.3, 0.4], [0.6, 0.5], [0.0, 0.0]]) * torch.tensor([width, height])
        labels = torch.tensor([[1.0, 0.0, -1.0], [1.0, 1.0, -1.0]])
        return {**self.maps, "points": points.expand(2, -1, -1).contiguous(), "labels": labels}

    def output_spec(self) -> OutputSpec:
        """What one prompt is answered with."""
        if "labels" in self.bake:
            return OutputSpec(name="masks", kind="masks", shape=[1, *self.size], dtype="uint8")
        return OutputSpec(name="masks", kind="masks", shape=[1, self.student.masks, *self.size], dtype="float32")

    def decoder_spec(self, file: str) -> Decoder:
        """How the manifest describes it."""
        return Decoder(file=file, maps=list(self.maps), outputs=self.outputs)

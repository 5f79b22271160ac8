"""The networks as they are deployed: BatchNorm folded, no training head, and what is baked in around them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgeseg.errors import EdgesegError
from edgeseg.kernels.label_map import label_map
from edgeseg.manifest import Decoder, InputSpec, OutputSpec, Sizes
from edgeseg.students import Promptable, Semantic, Student, fuse, upsample
from edgeseg.students.promptable import ABSENT, best_mask

BAKES = ("pre", "labels", "bgr")
"""`pre`: uint8 RGB in, normalised inside. `labels`: upsampling and argmax (or the best mask) inside, uint8 out. `bgr`, with `pre`:
the pixels come in the order of OpenCV and most cameras, and are put in order inside."""


PLACES = 8
"""Points of a prompt, corners of a box included, in files that take a fixed number."""


@dataclass(frozen=True)
class Interface:
    """How a target wants what goes into its files and what comes out.

    layout: of a normalised image and of logits.
    image:  with `pre` baked in, `pixels`: uint8 `[1, H, W, 3]`, or `planes`: the same numbers as float32 `[1, 3, H, W]`.
    labels: with `labels` baked in, their type; `host`: the file ends with low logits, or with masks, and whoever runs it labels.
    places: an artifact answers one prompt at a time, padded to so many places; null: any number of both.
    """

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    image: Literal["pixels", "planes"] = "pixels"
    labels: Literal["uint8", "int32", "host"] = "uint8"
    places: int | None = None

    @property
    def label_type(self) -> Literal["uint8", "int32"]:
        """The type of labels that an artifact gives."""
        return "int32" if self.labels == "int32" else "uint8"


NATURAL = Interface()
"""As PyTorch has it."""


@dataclass(frozen=True)
class Length:
    """An axis of any length: `step` times what is called `name`, which is from `least` to `most` (null: without end)."""

    name: str
    step: int = 1
    least: int = 1
    most: int | None = None

    def __str__(self) -> str:  # as an ONNX file has it
        return self.name if self.step == 1 else f"{self.step}*{self.name}"


class Network(nn.Module):
    """One graph to export, at one size (height, width).

    outputs: their names, in order.
    sizes:   what it takes beside its own size, which is one of them; null: nothing.
    dynamic: input -> axis -> what its length is, for the axes where it is free.
    whole:   the network as a graph with marks where it computes in whole numbers, once a quantizer has made it.
    """

    outputs: list[str]
    dynamic: dict[str, dict[int, Length]]
    whole: GraphModule | None

    def __init__(
        self,
        student: Student,
        size: tuple[int, int],
        bake: Iterable[str] = (),
        interface: Interface = NATURAL,
        sizes: Sizes | None = None,
    ) -> None:
        super().__init__()
        self.interface, self.sizes = interface, sizes
        self.bake = [name for name in BAKES if name in set(bake)]
        if unknown := set(bake) - set(BAKES):
            raise EdgesegError(f"cannot bake {', '.join(sorted(unknown))}; there is {' and '.join(BAKES)}")
        if "bgr" in self.bake and "pre" not in self.bake:
            raise EdgesegError("bgr says in which order pixels come, and without pre there are none; bake pre,bgr")
        self.size = size
        self.student = fuse(student)
        self.dynamic = {}
        self.whole = None
        student.check_size(torch.empty(1, 3, *size, device="meta"))
        self.complete()

    def complete(self) -> None:
        """What a kind of network needs besides; called when everything else is there."""

    @property
    def graph(self) -> nn.Module:
        """What is converted: the quantized graph where there is one, else the network itself."""
        return self.eval() if self.whole is None else self.whole

    def feeds(self) -> dict[str, Tensor]:
        """Inputs of the right kind, by name, in order."""
        raise TypeError(f"{type(self).__name__} does not say what it takes")


class ImageNetwork(Network):
    """A graph that takes the image."""

    scale: Tensor
    shift: Tensor

    def complete(self) -> None:
        """The numbers that normalise."""
        student = self.student
        scale = [1 / (255 * std) for std in student.std]
        shift = [mean / std for mean, std in zip(student.mean, student.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.eval()

    @property
    def bakes_pre(self) -> bool:
        """Whether the graph takes the pixels of an image, not what the student takes."""
        return "pre" in self.bake

    @property
    def colour(self) -> Literal["RGB", "BGR"]:
        """The order in which the image's colours come."""
        return "BGR" if "bgr" in self.bake else "RGB"

    def normalised(self, image: Tensor) -> Tensor:
        """The input as the student takes it."""
        baked, planes = self.bakes_pre, image
        if (self.interface.image == "pixels") if baked else (self.interface.layout == "NHWC"):
            planes = image.permute(
                0, 3, 1, 2
            ).contiguous()  # else pooling is written for strides that ONNX does not have
        if not baked:
            return planes
        seen = planes.float()
        if self.colour == "BGR":
            # in float, for TensorRT has little for uint8, and as slices, for ncnn has no index_select
            seen = torch.cat([seen[:, 2:], seen[:, 1:2], seen[:, :1]], 1)
        return seen * self.scale - self.shift

    def feeds(self) -> dict[str, Tensor]:
        """The image, as the file takes it."""
        spec = self.input_spec()
        if self.bakes_pre and self.interface.image == "planes":
            return {spec.name: torch.zeros(1, 3, *self.size)}
        return {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))}

    def input_spec(self) -> InputSpec:
        """What goes in."""
        baked = self.bakes_pre
        layout = "NHWC" if baked else self.interface.layout
        return InputSpec(
            name="image",
            shape=[1, *self.size, 3] if layout == "NHWC" else [1, 3, *self.size],
            layout=layout,
            dtype="uint8" if baked else "float32",
            colour=self.colour,
            mean=self.student.mean,
            std=self.student.std,
            baked=self.bake,
            sizes=self.sizes,
            step=self.student.step if self.sizes else 1,
        )


class Deployed(ImageNetwork):
    """A semantic student: an image in, logits or labels out."""

    student: Semantic

    def complete(self) -> None:
        """The name of the output."""
        super().complete()
        self.outputs = [self.output_spec().name]
        if self.sizes is not None:
            self.dynamic = {self.input_spec().name: free_axes(self, self.sizes)}

    def forward(self, image: Tensor) -> Tensor:
        """The input and output that `input_spec` and `output_spec` describe."""
        planes = self.normalised(image)
        low, size = self.student.low_logits(planes), self.size
        if self.sizes is not None:
            size = planes.shape[2], planes.shape[3]
        if "labels" in self.bake:
            if self.interface.labels == "host":
                return low
            # our operator has its size as a number
            return label_map(low, size) if self.sizes is None else upsample(low, size).argmax(1).to(torch.uint8)
        logits = upsample(low, size)
        return logits.permute(0, 2, 3, 1) if self.interface.layout == "NHWC" else logits

    def output_spec(self) -> OutputSpec:
        """What comes out."""
        if "labels" in self.bake:
            dtype = self.interface.label_type
            return OutputSpec(name="labels", kind="labels", shape=[1, *self.size], dtype=dtype)
        layout, classes = self.interface.layout, self.student.classes
        shape = [1, *self.size, classes] if layout == "NHWC" else [1, classes, *self.size]
        return OutputSpec(name="logits", kind="logits", shape=shape, dtype="float32", layout=layout)


def free_axes(network: Deployed, sizes: Sizes) -> dict[int, Length]:
    """The axes of the image that are free: all but the channels where there are several images and several sizes.

    Raises:
        EdgesegError: a first or last size that is not in the student's steps.
    """
    step, spec = network.student.step, network.input_spec()
    if any(side % step for side in (*sizes.least, *sizes.most)):
        raise EdgesegError(f"{network.student.name} takes free sizes in steps of {step}, got {sizes}")
    first = 1 if spec.layout == "NHWC" else 2
    sides = {
        first + index: Length(name, step, low // step, high // step)
        for index, (name, low, high) in enumerate(zip(("height", "width"), sizes.least, sizes.most, strict=True))
        if low < high
    }
    return sides if sizes.batch == 1 else {0: Length("batch", 1, 1, sizes.batch), **sides}


class DeployedEncoder(ImageNetwork):
    """The part of a promptable student that looks at the image: its maps out."""

    student: Promptable

    def complete(self) -> None:
        """The maps of a black image, and their names."""
        super().complete()
        with torch.no_grad():  # not inference mode: exporters that keep gradients refuse such tensors as inputs
            self.maps = self(*self.feeds().values())
        self.outputs = [f"map_{index}" for index in range(len(self.maps))]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """What `Promptable.embed` gives."""
        return self.student.embed(self.normalised(image))


class DeployedDecoder(Network):
    """The part of a promptable student that answers prompts: any number of them at once, or one with a fixed number of places."""

    student: Promptable

    def __init__(self, encoder: DeployedEncoder) -> None:
        super().__init__(encoder.student, encoder.size, encoder.bake, encoder.interface)
        self.maps = dict(zip(encoder.outputs, encoder.maps, strict=True))
        self.outputs = ["masks", "quality"]
        if self.interface.places is None:
            prompts = {0: Length("prompts"), 1: Length("places")}
            self.dynamic = {"points": prompts, "labels": prompts}
        else:
            self.student.absences = True
        self.eval()

    def forward(self, *feeds: Tensor) -> tuple[Tensor, Tensor]:
        """Maps, `points [P, N, 2]` and `labels [P, N]` to masks as `output_spec` says and `quality [P, masks]`."""
        *maps, points, labels = feeds
        low, quality = self.student.low_masks(maps, self.size, points, labels)
        masks = self.student.enlarge(low, self.size)
        if "labels" not in self.bake or self.interface.labels == "host":
            return masks, quality
        return (best_mask(masks, quality)[:, 0] > 0).to(getattr(torch, self.interface.label_type)), quality

    def feeds(self) -> dict[str, Tensor]:
        """The maps of a grey image, and two prompts of three places or one of as many as there have to be."""
        height, width = self.size
        if self.interface.places is not None:
            points, labels = (
                torch.zeros(1, self.interface.places, 2),
                torch.full((1, self.interface.places), float(ABSENT)),
            )
            points[0, 0], labels[0, :2] = torch.tensor([width / 2, height / 2]), torch.tensor([1.0, -1.0])
            return {**self.maps, "points": points, "labels": labels}
        points = torch.tensor([[0.3, 0.4], [0.6, 0.5], [0.0, 0.0]]) * torch.tensor([width, height])
        labels = torch.tensor([[1.0, 0.0, -1.0], [1.0, 1.0, -1.0]])
        return {**self.maps, "points": points.expand(2, -1, -1).contiguous(), "labels": labels}

    def output_spec(self) -> OutputSpec:
        """What one prompt is answered with."""
        if "labels" in self.bake:
            dtype = self.interface.label_type
            return OutputSpec(name="masks", kind="masks", shape=[1, *self.size], dtype=dtype)
        return OutputSpec(name="masks", kind="masks", shape=[1, self.student.masks, *self.size], dtype="float32")

    def decoder_spec(self, file: str, prompts: int | None) -> Decoder:
        """How the manifest describes it; `prompts`: the most that it answers at once."""
        return Decoder(file, list(self.maps), self.outputs, self.interface.places, prompts)

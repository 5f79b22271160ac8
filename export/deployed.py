"""The network as it is deployed: BatchNorm folded, no training head, and what is baked in around it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.kernels.label_map import label_map
from edgeseg.manifest import InputSpec, OutputSpec
from edgeseg.students import Student, fuse, upsample

BAKES = ("pre", "labels")
"""`pre`: uint8 RGB in, normalised inside. `labels`: upsampling and argmax inside, a uint8 label map out."""


class Deployed(nn.Module):
    """What is exported, at one size (height, width)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, student: Student, size: tuple[int, int], bake: Iterable[str] = ()) -> None:
        super().__init__()
        self.bake = [name for name in BAKES if name in set(bake)]
        if unknown := set(bake) - set(BAKES):
            raise EdgesegError(f"cannot bake {', '.join(sorted(unknown))}; there is {' and '.join(BAKES)}")
        self.size = size
        self.student = fuse(student)
        student.check_size(torch.empty(1, 3, *size, device="meta"))
        scale = [1 / (255 * std) for std in student.std]
        shift = [mean / std for mean, std in zip(student.mean, student.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """The input and output that `input_spec` and `output_spec` describe."""
        if "pre" in self.bake:
            planes = image.permute(
                0, 3, 1, 2
            ).contiguous()  # else pooling is written for strides that ONNX does not have
            image = planes.float() * self.scale - self.shift
        low = self.student.low_logits(image)
        return label_map(low, self.size) if "labels" in self.bake else upsample(low, self.size)

    def example(self) -> Tensor:
        """An input of the right kind."""
        spec = self.input_spec()
        return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))

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

    def output_spec(self) -> OutputSpec:
        """What comes out."""
        if "labels" in self.bake:
            return OutputSpec(name="labels", kind="labels", shape=[1, *self.size], dtype="uint8")
        return OutputSpec(name="logits", kind="logits", shape=[1, self.student.classes, *self.size], dtype="float32")

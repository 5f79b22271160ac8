"""A student with every operator that quantizers know, trained for a moment so that its masks are decided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeseg.data import Data
from edgeseg.export.deployed import Deployed
from edgeseg.quantize.calibration import CalibrationSet, choose_images
from edgeseg.quantize.post_training import feeds
from edgeseg.students import Semantic, Stage, upsample

SIZE = (64, 96)


def block(inner: int, outer: int, kernel: int, act: type[nn.Module] | None, **options: int) -> nn.Sequential:
    """Convolution, BatchNorm, and what follows."""
    layers = [nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outer)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.pool, self.relu, self.gate = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return result


class Last(nn.Module):
    """A linear layer over channels that lie last, in four dimensions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result


class Every(Semantic):
    """One of everything."""

    licence, paper, multiple = "Apache-2.0", "none", 8
    feature_info = (Stage(24, 2),)

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.name = "every"
        self.stem = block(3, 16, 3, nn.ReLU, stride=2)
        self.deep = nn.Sequential(block(16, 16, 3, nn.ReLU, groups=16), block(16, 24, 1, nn.ReLU, stride=2))
        self.side = nn.Sequential(block(24, 24, 3, nn.ReLU), block(24, 24, 3, None))
        self.mix = block(24, 24, 1, nn.ReLU)
        self.gate = Gate(24)
        self.swish = block(24, 24, 1, nn.Hardswish)
        self.last = Last(24)
        self.down = block(24, 24, 1, nn.ReLU)
        self.largest, self.halved = nn.MaxPool2d(2), block(24, 24, 3, nn.ReLU, stride=2)
        self.join = block(48, 24, 1, nn.ReLU)
        self.average, self.smooth = nn.AvgPool2d(3, 1, 1), block(24, 24, 1, nn.ReLU)
        self.fuse = block(40, 24, 3, nn.ReLU)
        self.head = nn.Conv2d(24, classes, 1)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        fine = self.stem(image)
        x = self.deep(fine)
        x = self.mix(torch.relu(self.side(x) + x))
        x = self.down(self.last(self.swish(self.gate(x))))
        x = self.join(torch.cat([self.largest(x), self.halved(x)], 1))
        x = self.smooth(self.average(x))
        return [self.fuse(torch.cat([upsample(x, fine.shape[-2:]), fine], 1))]

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.forward_features(image)[0])
        return result


@pytest.fixture(scope="session")
def taught(tiny_data: Data) -> Semantic:
    """`Every` after 80 steps; not to be changed."""
    torch.manual_seed(0)
    student = Every(len(tiny_data.class_names))
    student.describe(tiny_data.class_names, tiny_data.palette)
    pairs = [tiny_data.split("train")[index] for index in range(8)]
    images = student.normalise(torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2))
    labels = torch.from_numpy(np.stack([truth for _, truth in pairs])).long()
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(student(images), labels, ignore_index=255))
        optimizer.step()
    return student.eval()


@pytest.fixture(scope="session")
def chosen(tiny_data: Data) -> CalibrationSet:
    """Eight calibration images."""
    return choose_images(tiny_data, None, 8)


@pytest.fixture(scope="session")
def network(taught: Semantic) -> Deployed:
    """It as it is deployed, with logits; not to be changed."""
    return Deployed(taught, SIZE, ("pre",))


@pytest.fixture(scope="session")
def images(network: Deployed, chosen: CalibrationSet) -> list[Tensor]:
    """The calibration images as it takes them."""
    return feeds(network, chosen)


@pytest.fixture(scope="session")
def others(tiny_data: Data) -> list[Tensor]:
    """Eight images that it was neither taught nor calibrated on."""
    split = tiny_data.split("val")
    return [torch.from_numpy(split[index][0])[None] for index in range(len(split))]


@torch.inference_mode()
def answers(network: nn.Module, images: list[Tensor]) -> NDArray[np.float64]:
    """The logits `[N, K, H, W]` of images one by one."""
    return np.concatenate([network(image).double().numpy() for image in images])


def difference(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Relative RMS."""
    return float(np.sqrt(((after - before) ** 2).sum() / (before**2).sum()))


def same(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """The share of pixels with the same label."""
    return float((before.argmax(1) == after.argmax(1)).mean())

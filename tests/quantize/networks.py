"""A network with every operator that quantizers know, as somebody's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.students import upsample


def block(inner: int, outer: int, kernel: int, act: type[nn.Module] | None, **options: Any) -> nn.Sequential:
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


class Every(nn.Module):
    """One of everything."""

    multiple = 8

    def __init__(self, classes: int) -> None:
        super().__init__()
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

    def forward(self, image: Tensor) -> Tensor:
        fine = self.stem(image)
        x = self.deep(fine)
        x = self.mix(torch.relu(self.side(x) + x))
        x = self.down(self.last(self.swish(self.gate(x))))
        x = self.join(torch.cat([self.largest(x), self.halved(x)], 1))
        x = self.smooth(self.average(x))
        return self.head(self.fuse(torch.cat([upsample(x, fine.shape[-2:]), fine], 1)))


def every(classes: int) -> nn.Module:
    """The factory."""
    return Every(classes)


class Plain(nn.Module):
    """Convolutions alone, in a second trained to its end."""

    multiple = 4

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.one, self.two = block(3, 16, 3, nn.ReLU, stride=2), block(16, 16, 3, nn.ReLU)
        self.three, self.four = block(16, 16, 3, nn.ReLU), block(16, 16, 3, nn.ReLU)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.four(self.three(self.two(self.one(image)))))


def plain(classes: int) -> nn.Module:
    """The factory."""
    return Plain(classes)

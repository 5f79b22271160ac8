"""A student with every operator that quantizers know, trained for a moment so that its masks are decided."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

import edgeseg as es
from edgeseg.data import Data
from edgeseg.export.deployed import Deployed
from edgeseg.quantize import post_training
from edgeseg.quantize.calibration import CalibrationSet, choose_images
from edgeseg.quantize.graph import traced
from edgeseg.quantize.post_training import feeds
from edgeseg.runs import save
from edgeseg.students import Semantic
from tests.quantize import networks

SIZE = (64, 96)

EVERY = f"{networks.__name__}:{networks.every.__name__}"
"""The student's name; its modules are within `net`."""


@pytest.fixture(scope="session")
def taught(tiny_data: Data) -> Semantic:
    """`Every` after 80 steps; not to be changed."""
    torch.manual_seed(0)
    student: Semantic = es.create(EVERY, classes=len(tiny_data.class_names))
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
def taught_run(taught: Semantic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a run."""
    return save(taught, tmp_path_factory.mktemp("taught") / "every", size=SIZE)


@pytest.fixture(scope="session")
def chosen(tiny_data: Data) -> CalibrationSet:
    """Eight calibration images."""
    return choose_images(tiny_data, None, 8)


@pytest.fixture(scope="session")
def network(taught: Semantic) -> Deployed:
    """It as it is deployed, with logits; not to be changed."""
    return Deployed(taught, SIZE, ("pre",))


@pytest.fixture(scope="session")
def graph(network: Deployed) -> GraphModule:
    """Its graph; not to be changed."""
    return traced(network)


@pytest.fixture
def remembered(graph: GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the graph of a network gets a copy of that of `network`: making it takes longest."""
    monkeypatch.setattr(post_training, "traced", lambda network: copy.deepcopy(graph))


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


def poisoned(student: Semantic, first: str = "net.side.0", second: str = "net.side.1") -> Semantic:
    """The same student with one channel between two of its layers a thousand times as large."""
    other = copy.deepcopy(student)
    with torch.no_grad():
        for name in ("weight", "bias"):
            other.get_parameter(f"{first}.1.{name}")[5] *= 1000
        other.get_parameter(f"{second}.0.weight")[:, 5] /= 1000
    return other.eval()

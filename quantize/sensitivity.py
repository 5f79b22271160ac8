"""Which part of a network suffers from whole numbers: each block alone is quantized, and the masks are judged, not the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgeseg.export.deployed import ImageNetwork
from edgeseg.metrics import boundary_f, confusion, iou
from edgeseg.parity import Picture, Progress
from edgeseg.pictures import save_picture
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.findings import MARKED, Damage
from edgeseg.quantize.graph import copied, traced
from edgeseg.quantize.post_training import apply
from edgeseg.runtimes import pixels

BLOCKS = 24
"""As many as a person reads, and a search has time for."""

IMAGES = 24
"""Labelled images that each block is judged on."""

PICTURES = 3
"""Blocks that a picture is kept of, the worst ones."""

Labels = NDArray[np.uint8]


def blocks(layers: Sequence[str], at_most: int = BLOCKS) -> dict[str, list[str]]:
    """Block -> its layers, in order: modules as deep as there are at most so many of them."""
    depth = 1
    found: dict[str, list[str]] = {}
    while True:
        cut: dict[str, list[str]] = {}
        for layer in layers:
            cut.setdefault(".".join(layer.split(".")[:depth]), []).append(layer)
        if found and (len(cut) > at_most or cut == found):
            return found
        found, depth = cut, depth + 1


def sensitivity(
    network: ImageNetwork,
    made: Quantization,
    pictures: Sequence[Picture],
    classes: int,
    progress: Progress | None = None,
    keep: Path | None = None,
) -> list[Damage]:
    """Every block of a quantized network, the worst first; `keep` is the folder for pictures of the worst.

    pictures: with their true labels, at the network's size.
    """
    graph = traced(network)
    images = [given(network, one) for one in pictures]
    truths = [one.truth for one in pictures if one.truth is not None]
    before = [labels_of(graph, image) for image in images]
    score, edge = judged(before, truths, classes)
    found = blocks(made.layers)
    rows: list[tuple[Damage, list[Labels]]] = []
    for done, (block, layers) in enumerate(found.items(), 1):
        others = tuple(layer for layer in made.layers if layer not in layers)
        recipe = replace(made.recipe, keep=(*made.recipe.keep, *others))
        alone = apply(network, replace(made, recipe=recipe), copied(graph))
        after = [labels_of(alone, image) for image in images]
        miou, boundary = judged(after, truths, classes)
        changed = float(np.mean([(a != b).mean() for a, b in zip(before, after, strict=True)]))
        rows.append((Damage(block, layers, score - miou, edge - boundary, changed), after))
        if progress:
            progress(done, len(found))
    rows.sort(key=lambda row: (round(row[0].drop, 1), row[0].changed), reverse=True)
    if keep is None:
        return [row for row, _ in rows]
    return [
        replace(row, picture=_draw(keep, index, pictures, before, after)) if index < PICTURES else row
        for index, (row, after) in enumerate(rows)
    ]


def given(network: ImageNetwork, one: Picture) -> torch.Tensor:
    """A picture as the network takes it."""
    array = torch.from_numpy(pixels.prepare(one.image, network.input_spec()))
    planes = network.bakes_pre and network.interface.image == "planes"
    return array.permute(0, 3, 1, 2).float() if planes else array


@torch.inference_mode()
def labels_of(graph: GraphModule, image: torch.Tensor) -> Labels:
    """The label map `[H, W]` that a graph gives for an image."""
    return pixels.labels(graph(image).numpy())


def judged(made: Sequence[Labels], truths: Sequence[Labels], classes: int) -> tuple[float, float]:
    """mIoU and boundary F of label maps, in percent."""
    matrix = sum(
        (confusion(truth, labels, classes) for truth, labels in zip(truths, made, strict=True)),
        np.zeros((classes, classes), np.int64),
    )
    edges = [np.nanmean(boundary_f(truth, labels, classes)) for truth, labels in zip(truths, made, strict=True)]
    return float(np.nanmean(iou(matrix))), float(np.nanmean(edges))


def _draw(
    folder: Path, index: int, pictures: Sequence[Picture], before: Sequence[Labels], after: Sequence[Labels]
) -> str:
    """The image that changes most, and red where it does; the file's name."""
    worst = int(np.argmax([(a != b).mean() for a, b in zip(before, after, strict=True)]))
    image = pictures[worst].image // 2
    image[before[worst] != after[worst]] = MARKED
    name = f"sensitivity-{index + 1}.png"
    folder.mkdir(parents=True, exist_ok=True)
    save_picture(folder / name, image)
    return name

"""The ranking of blocks finds the one that cannot bear whole numbers, by what it costs the masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgeseg.data import Data
from edgeseg.export.deployed import Deployed
from edgeseg.parity import choose
from edgeseg.quantize.findings import MARKED
from edgeseg.quantize.post_training import apply, calibrate
from edgeseg.quantize.scheme import Recipe
from edgeseg.quantize.sensitivity import sensitivity
from edgeseg.students import Semantic
from tests.quantize.conftest import SIZE, answers, poisoned


def miou(made: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    """The mean over the classes that occur of what two stacks of label maps share, in percent."""
    known = truth != 255
    shares = []
    for label in range(classes):
        ours, theirs = (made == label) & known, truth == label
        if either := (ours | theirs).sum():
            shares.append((ours & theirs).sum() / either)
    return float(100 * np.mean(shares))


@pytest.mark.parametrize(("first", "second"), [("net.side.0", "net.side.1"), ("net.deep.0", "net.deep.1")])
def test_a_block_that_was_made_fragile_is_named_first(
    taught: Semantic, tiny_data: Data, images: list[Tensor], tmp_path: Path, first: str, second: str
) -> None:
    """One channel between two layers is a thousand times as large: the first rounds all others away."""
    network = Deployed(poisoned(taught, first, second), SIZE, ("pre",))
    _, pictures = choose(tiny_data, None, 8, SIZE)
    made = calibrate(network, "onnxruntime", "int8", Recipe(), images)
    rows = sensitivity(network, made, pictures, taught.classes, keep=tmp_path)
    worst, others = rows[0], rows[2:]
    assert [row.block for row in rows[:2]] == [f"{first}.0", f"{second}.0"]
    # measured 12 to 14 points of mIoU and of boundary F, and 0.2 for the worst of all others
    assert min(worst.drop, worst.boundary) > 8
    assert max(max(abs(row.drop), abs(row.boundary)) for row in others) < 1

    given = [torch.from_numpy(one.image)[None] for one in pictures]
    truth = np.stack([one.truth for one in pictures if one.truth is not None]).astype(np.int64)
    kept = tuple(layer for layer in made.layers if layer != f"{first}.0")
    alone = apply(network, replace(made, recipe=replace(made.recipe, keep=kept)))
    before, after = (answers(each, given).argmax(1) for each in (network, alone))
    assert worst.drop == pytest.approx(
        miou(before, truth, taught.classes) - miou(after, truth, taught.classes), abs=1e-6
    )
    assert worst.changed == pytest.approx((before != after).mean(), abs=1e-9)

    assert [row.picture is not None for row in rows] == [True] * 3 + [False] * (len(rows) - 3)
    most = int((before != after).mean((1, 2)).argmax())
    wanted = np.where((before != after)[most][..., None], MARKED, pictures[most].image // 2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / str(worst.picture))), wanted)

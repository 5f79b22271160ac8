"""What the parity tests of every family share: filled weights, the bundles, and how close is the same.

`golden/*.npz` hold outputs of the official code for weights and inputs made by `golden/fill.py`; the whole bundles they
were cut from are used where they are (`EDGESEG_PARITY` names their folder).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgeseg as es
from tests.golden.fill import fill

GOLDEN = Path(__file__).parent.parent / "golden"
WITHIN = (
    1e-4  # of the largest reference value: float32 sums over 60 layers, in whatever order a build of torch adds them
)


def filled(name: str, **options: Any) -> Any:
    """A student whose key names are the official ones, filled."""
    student: nn.Module = es.create(name, **options)
    student.load_state_dict(fill(student.state_dict()))
    return student.eval()


def assert_close(got: Tensor, reference: Tensor, within: float = WITHIN) -> None:
    """Equal shape, and max |difference| <= `within` x max |reference|; NaN fails."""
    assert got.shape == reference.shape
    assert float((got - reference).abs().max()) <= within * float(reference.abs().max())


def bundle(name: str) -> dict[str, Any]:
    """A whole parity bundle, or a skip that says where one is looked for."""
    folder = Path(os.environ.get("EDGESEG_PARITY", Path(__file__).resolve().parents[3] / "shared" / "parity"))
    file = folder / f"{name}.pt"
    if not file.exists():
        pytest.skip(f"needs the parity bundles: set EDGESEG_PARITY to their folder ({file} is not there)")
    document: dict[str, Any] = torch.load(file, weights_only=True)
    return document

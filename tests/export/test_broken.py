"""Exports that were broken on purpose: every target's proof fails, and says for what reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.export import deployed
from edgeseg.export.deployed import Deployed, ImageNetwork
from edgeseg.export.target import Target
from edgeseg.locate import locate_with
from edgeseg.parity import bad_hops
from edgeseg.students import Semantic, Student, fuse
from tests.export.test_export import KINDS, needs, small  # noqa: F401 (a fixture)

Patch = pytest.MonkeyPatch

MOST = [
    pytest.param(kind, id=kind.name, marks=() if kind in (es.OnnxRuntime, es.CoreMl) else pytest.mark.wide)
    for kind in KINDS
]
"""Every target; two of them, which share no code, each time."""


def before(patch: Patch, change: Callable[[ImageNetwork, Tensor], Tensor]) -> None:
    """What the student gets is changed inside the file."""
    right = ImageNetwork.normalised
    patch.setattr(ImageNetwork, "normalised", lambda network, image: change(network, right(network, image)))


def colours(patch: Patch) -> None:
    def wrong(network: ImageNetwork, normal: Tensor) -> Tensor:
        pixels = (normal * std(network) + mean(network)).index_select(1, torch.tensor([2, 1, 0]))
        return (pixels - mean(network)) / std(network)

    before(patch, wrong)


def undivided(patch: Patch) -> None:
    def wrong(network: ImageNetwork, normal: Tensor) -> Tensor:
        return ((normal * std(network) + mean(network)) * 255 - mean(network)) / std(network)

    before(patch, wrong)


def transposed(patch: Patch) -> None:
    before(patch, lambda network, normal: normal.mT)


def aligned(patch: Patch) -> None:
    patch.setattr(deployed, "upsample", lambda low, size: F.interpolate(low, size, mode="bilinear", align_corners=True))


def exchanged(patch: Patch) -> None:
    right = Deployed.forward

    def wrong(network: Deployed, image: Tensor) -> Tensor:
        made = right(network, image)
        axis = 3 if network.interface.layout == "NHWC" else 1
        return made.index_select(axis, torch.tensor([1, 0, *range(2, made.shape[axis])]))

    patch.setattr(Deployed, "forward", wrong)


def mean(network: ImageNetwork) -> Tensor:
    return torch.tensor(network.student.mean).view(1, 3, 1, 1)


def std(network: ImageNetwork) -> Tensor:
    return torch.tensor(network.student.std).view(1, 3, 1, 1)


BREAKS = {
    "red and blue are exchanged": colours,
    "pixels are not divided by 255": undivided,
    "the image is transposed": transposed,
    "masks are enlarged with aligned corners": aligned,
    "are exchanged": exchanged,
}


@pytest.mark.parametrize("words", BREAKS)
@pytest.mark.parametrize("kind", MOST)
def test_a_broken_export_says_how(
    small: Student,  # noqa: F811
    tiny_data: Data,
    kind: type[Target],
    words: str,
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    needs(kind)
    BREAKS[words](monkeypatch)
    ledger = es.export_model(small, kind(), tmp_path / "out", (64, 64), data=tiny_data).manifest.ledger
    assert ledger is not None
    assert not ledger.passed
    assert words in " ".join(ledger.hops[2].reasons)


@pytest.mark.parametrize("kind", MOST)
def test_a_weight_that_is_no_number_is_seen(
    small: Semantic,  # noqa: F811
    tiny_data: Data,
    kind: type[Target],
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    needs(kind)

    def damaged(student: Student) -> Student:
        made = fuse(student)
        next(made.parameters()).data.view(-1)[0] = torch.nan
        return made

    monkeypatch.setattr("edgeseg.export.deployed.fuse", damaged)
    ledger = es.export_model(small, kind(), tmp_path / "out", (64, 64), data=tiny_data).manifest.ledger
    assert ledger is not None
    # some runtimes make 0 of NaN in a ReLU: then it is the graph before that has them
    assert "values are NaN or infinite" in " ".join(bad_hops(ledger))
    assert not ledger.hops[2].passed


class Unfaithful(torch.nn.Module):
    """A layer that a converter gets wrong."""

    def __init__(self, inner: torch.nn.Module, factor: float = 1.01) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        return made * self.factor if torch.compiler.is_exporting() else made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bisect_names_the_module(
    small: Student,  # noqa: F811
    tiny_data: Data,
    kind: type[Target],
    tmp_path: Path,
) -> None:
    needs(kind)
    from copy import deepcopy

    student = deepcopy(small)
    body = student.get_submodule("body")
    assert isinstance(body, torch.nn.Sequential)
    body[3] = Unfaithful(body[3])
    artifact = es.export_model(student, kind(), tmp_path / "out", (64, 96), ("pre",), data=tiny_data)
    found = locate_with(artifact, student, tiny_data)
    assert found.first == "body.3"
    assert found.stages[-2].module in ("body.3", "body.2", "body.1", "body.0")
    assert "first differs in body.3 (Unfaithful)" in found.words
    assert found.picture is not None
    assert (artifact.folder / found.picture).stat().st_size > 100


def test_bisect_says_when_it_is_the_file(small: Student, tiny_data: Data, tmp_path: Path) -> None:  # noqa: F811
    artifact = es.export_model(small, es.OnnxRuntime(), tmp_path / "out", (64, 96), data=tiny_data)
    found = locate_with(Artifact.open(artifact.folder), small, tiny_data)
    assert found.first is None
    assert all(stage.fits for stage in found.stages)
    assert "export again" in found.words


def test_half_precision_that_fails_says_whose_fault_it_is(
    small: Semantic,  # noqa: F811
    tiny_data: Data,
    tmp_path: Path,
) -> None:
    from copy import deepcopy

    def reasons(student: Semantic, name: str) -> str:
        target = es.OnnxRuntime(precision="fp16")
        ledger = es.export_model(student, target, tmp_path / name, (64, 96), data=tiny_data).manifest.ledger
        assert ledger is not None
        assert not ledger.passed
        return ledger.hops[2].reasons[-1]

    brittle, fooled = deepcopy(small), deepcopy(small)
    last = [layer for layer in brittle.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    assert last.bias is not None
    last.bias.data += 40000.0  # here float16 knows every 32nd number
    assert "these weights need float32 in places" in reasons(brittle, "brittle")
    body = fooled.get_submodule("body")
    assert isinstance(body, torch.nn.Sequential)
    body[3] = Unfaithful(body[3], 1.5)
    assert "the rest is lost by the runtime" in reasons(fooled, "fooled")

"""Exports that were broken on purpose: every target's proof fails, and says for what reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from edgeseg.locate import _parts, locate_with
from edgeseg.parity import bad_hops
from edgeseg.students import Promptable, Semantic, Stage, Student, fuse
from edgeseg.students.promptable import ABSENT
from tests.export.test_export import KINDS, Small, needs, small  # noqa: F401 (a fixture)
from tests.students.test_registry import settled

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


def test_bisect_looks_through_what_is_not_called(tiny_data: Data, tmp_path: Path) -> None:
    """LR-ASPP slices its backbone, so that it is no module that gives anything; its blocks are."""
    student = settled("lraspp_mobilenet_v3_small")
    student.backbone[2] = Unfaithful(student.backbone[2], 1.05)
    artifact = es.export_model(student, es.OnnxRuntime(), tmp_path / "out", (64, 96), data=tiny_data)
    found = locate_with(artifact, student, tiny_data)
    assert found.first == "backbone.2"
    assert [stage.module for stage in found.stages][:3] == ["backbone.0", "backbone.1", "backbone.2"]
    assert [stage.module for stage in found.stages if not stage.fits] == ["backbone.2"]


class Maps(torch.nn.Module):
    """Two maps as a list, in a tuple: nothing that could be compared, but for what is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, image: Tensor) -> tuple[list[Tensor], None]:
        fine = self.fine(image)
        return [fine, self.coarse(fine)], None


class Nested(Small):
    """A student whose backbone's backbone gives its maps."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.body = torch.nn.Sequential(torch.nn.Sequential(Maps()))

    def low_logits(self, image: Tensor) -> Tensor:
        (_, coarse), _ = self.body(image)
        result: Tensor = self.head(coarse)
        return result


def test_parts_are_looked_through_at_every_level() -> None:
    network = Deployed(Nested(3), (64, 96))
    assert _parts(network, network.feeds(), "") == ["body.0.0.fine", "body.0.0.coarse", "head"]
    assert _parts(network, network.feeds(), "body.0") == ["body.0.0.fine", "body.0.0.coarse"]
    assert _parts(network, network.feeds(), "head") == []


class Sliced(Small):
    """A student with more parts than are looked at at once."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.body = torch.nn.Sequential(*(torch.nn.Conv2d(16 if i else 3, 16, 3, 1 + (i < 2), 1) for i in range(9)))

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.body[4:](self.body[:4](image)))
        return result


@pytest.mark.parametrize("wrong", [0, 2, 4])
def test_bisect_comes_back_to_those_it_left_out(
    wrong: int, tiny_data: Data, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("edgeseg.locate.AT_ONCE", 4)
    torch.manual_seed(0)
    student = Sliced(len(tiny_data.class_names)).eval()
    student.describe(tiny_data.class_names, tiny_data.palette)
    student.body[wrong] = Unfaithful(student.body[wrong], 1.05)
    artifact = es.export_model(student, es.OnnxRuntime(), tmp_path / "out", (64, 96), data=tiny_data)
    found = locate_with(artifact, student, tiny_data)
    assert found.first == f"body.{wrong}"
    assert len({stage.module for stage in found.stages}) == len(found.stages)


class Answer(torch.nn.Module):
    """Masks and their quality, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.tell, self.mix, self.judge = torch.nn.Linear(3, 8), torch.nn.Conv2d(8, 8, 3, 1, 1), torch.nn.Linear(8, 1)

    def forward(self, image: Tensor, asked: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        told = (self.tell(asked) * there[..., None]).sum(1)
        return self.mix(image * told[..., None, None]).sum(1, keepdim=True), self.judge(told)


class Asked(Promptable):
    """A promptable student of four layers. bare: the image is looked at without calling any module."""

    licence, paper, multiple = "Apache-2.0", "none", 8
    feature_info = (Stage(8, 4),)

    def __init__(self, bare: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name, self.bare = "asked", bare
        self.look_at, self.decoder = torch.nn.Conv2d(3, 8, 5, 4, 2), Answer()

    def forward_features(self, image: Tensor) -> list[Tensor]:
        if self.bare:
            return [F.conv2d(image, self.look_at.weight, self.look_at.bias, 4, 2)]
        return [self.look_at(image)]

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.forward_features(image))

    def low_masks(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        points: Tensor,
        labels: Tensor,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        there = (labels != ABSENT).float() if self.absences else torch.ones_like(labels)
        asked = torch.cat([points / points.new_tensor(size[::-1]), labels[..., None]], 2)
        made: tuple[Tensor, Tensor] = self.decoder(maps[0], asked, there)
        return made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bisect_looks_into_decoders(tiny_data: Data, kind: type[Target], tmp_path: Path) -> None:
    """They give two things at once, of any number of prompts, or of one with places that are not there."""
    needs(kind)
    student = Asked()
    student.decoder.mix = Unfaithful(student.decoder.mix, 1.05)  # type: ignore[assignment]
    artifact = es.export_model(student, kind(), tmp_path / "out", (64, 96), ("pre",), data=tiny_data)
    found = locate_with(artifact, student, tiny_data)
    assert found.first == "decoder.mix"
    assert [stage.module for stage in found.stages] == ["look_at", "decoder.tell", "decoder.mix", "decoder.mix.inner"]
    assert [stage.fits for stage in found.stages] == [True, True, False, True]
    assert "folding" not in found.words


def test_bisect_says_what_it_does_not_know(tiny_data: Data, tmp_path: Path) -> None:
    student = Asked(bare=True)
    artifact = es.export_model(student, es.OnnxRuntime(), tmp_path / "out", (64, 96), data=tiny_data)
    found = locate_with(artifact, student, tiny_data)
    assert found.first is None
    assert [stage.module for stage in found.stages] == ["decoder.tell", "decoder.mix", "decoder.judge"]
    assert "nothing of the encoder was compared" in found.words
    assert "export again" not in found.words


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

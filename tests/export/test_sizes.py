"""Files of free height, width and number of images: proven where they end, refused where a format has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.cli.export import export, parse_span
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import from_options
from edgeseg.export.deployed import Deployed
from edgeseg.export.target import Target
from edgeseg.manifest import InputSpec
from edgeseg.parity import verify_with
from edgeseg.runs import load_run
from edgeseg.runtimes import pixels
from edgeseg.students import Student, create
from tests.export.test_export import KINDS, needs, small  # noqa: F401  # a fixture

SIZES = es.Sizes((48, 64), (96, 160), batch=3)
FREE = [kind for kind in KINDS if not kind.one_size]


@pytest.fixture(scope="module", params=FREE, ids=lambda kind: kind.name)
def free(
    request: pytest.FixtureRequest,
    small: Student,  # noqa: F811
    tiny_data: Data,
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    """The small student in each format that has it, with all baked in."""
    needs(request.param)
    out = tmp_path_factory.mktemp("free") / request.param.name
    return es.export_model(small, request.param(sizes=SIZES), out, (64, 96), ("pre", "labels"), data=tiny_data)


def test_it_is_proven_where_its_sizes_end(free: Artifact) -> None:
    ledger = free.manifest.ledger
    assert ledger is not None and ledger.passed
    ends = [hop.name.partition(" at ")[2] or hop.name.partition(" in batches of ")[2] for hop in ledger.hops[3:]]
    assert ends == ["48x64", "96x160", "48x160", "3"]
    assert all(hop.same_label > 0.9999 for hop in ledger.hops)


def test_every_size_between_gives_the_students_labels(free: Artifact, small: Student, tiny_data: Data) -> None:  # noqa: F811
    split = tiny_data.split("test")
    for height, width in ((56, 72), (96, 64), (72, 136)):
        there = pixels.at(free.manifest.input, height, width)
        batch = np.concatenate([pixels.prepare(split[index][0], there) for index in range(2)])
        made = free.session.run(batch)
        normal = small.normalise(torch.from_numpy(batch).permute(0, 3, 1, 2))
        with torch.inference_mode():
            wanted = small(normal).argmax(1).numpy()
        assert made.shape == (2, height, width) and made.dtype == np.uint8
        assert (made == wanted).mean() > 0.9999


def test_photos_keep_their_size_as_far_as_it_goes(free: Artifact, small: Student) -> None:  # noqa: F811
    image = pixels.pattern(80, 120)
    assert np.array_equal(free.predict(image), small.predict(image))  # nothing is resized
    assert free.predict(pixels.pattern(300, 400)).shape == (300, 400)


@pytest.mark.parametrize("shape", [(1, 64, 92, 3), (1, 40, 64, 3), (1, 104, 160, 3), (4, 64, 96, 3), (0, 64, 96, 3)])
def test_another_shape_is_refused_by_name(free: Artifact, shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgesegError, match=r"48x64-96x160-batch3 in steps of 8, got uint8 \["):
        free.session.run(np.zeros(shape, np.uint8))


def test_it_is_made_again_from_its_manifest(free: Artifact, small: Student, tmp_path: Path) -> None:  # noqa: F811
    target = from_options(free.manifest.target, "the manifest")
    assert target.sizes == SIZES
    again = es.export_model(small, target, tmp_path / "again", free.size, free.manifest.input.baked)
    assert again.manifest.input == free.manifest.input


def test_a_file_of_one_size_that_says_it_has_more_fails_its_proof(
    small: Student,  # noqa: F811
    tiny_data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Deployed.normalised

    def off(self: Deployed, image: Tensor) -> Tensor:
        """Right at the usual width alone."""
        return right(self, image) + (image.shape[2] - self.size[1]) * 0.1

    monkeypatch.setattr(Deployed, "normalised", off)
    made = es.export_model(
        small, es.OnnxRuntime(sizes=SIZES), tmp_path / "out", (64, 96), ("pre", "labels"), data=tiny_data
    )
    assert made.manifest.ledger is not None
    wrong = [hop.name for hop in made.manifest.ledger.hops if not hop.passed]
    assert wrong == [f"student -> onnxruntime at {size}" for size in ("48x64", "96x160", "48x160")]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.one_size], ids=lambda kind: kind.name)
def test_formats_of_one_size_say_so(kind: type[Target]) -> None:
    with pytest.raises(EdgesegError, match=f"{kind.name} fp32 has one size: .*; export each size by itself"):
        kind(sizes=SIZES)


def test_whole_numbers_are_of_one_size() -> None:
    with pytest.raises(EdgesegError, match="ranges of its whole numbers are measured in a graph of one"):
        es.OnnxRuntime(precision="int8", sizes=SIZES)


@pytest.mark.parametrize(
    ("least", "most", "batch"), [((64, 96), (32, 128), 1), ((0, 96), (32, 128), 1), ((64, 96), (64, 96), 0)]
)
def test_sizes_that_are_none_are_refused(least: tuple[int, int], most: tuple[int, int], batch: int) -> None:
    with pytest.raises(EdgesegError, match="from a small"):
        es.Sizes(least, most, batch)


def test_a_step_that_does_not_fit_is_refused(small: Student, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(EdgesegError, match="takes free sizes in steps of 8, got 48x64-100x160"):
        es.export_model(small, es.OnnxRuntime(sizes=es.Sizes((48, 64), (100, 160))), tmp_path / "out", (64, 96))
    assert not (tmp_path / "out").exists()


def test_a_promptable_student_has_one_size(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="one size, into which photos of all shapes are fitted"):
        es.export_model(create("rwkv_sam_tiny"), es.OnnxRuntime(sizes=SIZES), tmp_path / "out", (64, 64))


def test_the_nearest_size_is_in_steps_and_within() -> None:
    spec = InputSpec("image", [1, 64, 96, 3], "NHWC", "uint8", "RGB", (0, 0, 0), (1, 1, 1), ["pre"], SIZES, 8)
    found = {given: pixels.size(pixels.nearest(spec, *given)) for given in ((63, 97), (10, 2000), (92, 64))}
    assert found == {(63, 97): (64, 96), (10, 2000): (48, 160), (92, 64): (96, 64)}


@pytest.mark.parametrize(
    ("text", "span"),
    [("64x96", ((64, 96), (64, 96))), ("48x64-96x160", ((48, 64), (96, 160)))],
)
def test_spans(text: str, span: object) -> None:
    assert parse_span(text) == span


def test_the_command_refuses_before_it_writes(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="ncnn fp32 has one size"):
        export(str(tiny_run), "onnxruntime,ncnn", tmp_path / "out", size="48x64-96x160")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_student_by_command(tiny_run: Path, tmp_path: Path) -> None:
    needs(es.OnnxRuntime)
    export(str(tiny_run), "onnxruntime", tmp_path, size="64x64-128x192", bake="pre,labels")
    made = Artifact.open(tmp_path / "onnxruntime")
    assert made.size == (64, 96)  # as it was trained
    verified = verify_with(made, load_run(tiny_run))
    assert verified.manifest.ledger is not None and len(verified.manifest.ledger.hops) == 6

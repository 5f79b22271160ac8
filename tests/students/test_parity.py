"""The students are the official models: same parameters, same names, same numbers.

`golden/*.npz` hold outputs of the official code (ydhongHIT/DDRNet de0db31; torchvision 0.28.0, every fifth pixel
each way) for weights and inputs made by `golden/fill.py`. Measured difference: 0 on the torch they were made with.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import edgeseg as es
from edgeseg.errors import EdgesegError
from edgeseg.students import Student
from tests.golden.fill import fill, uniform

GOLDEN = Path(__file__).parent.parent / "golden"
WITHIN = (
    1e-4  # of the largest reference value: float32 sums over 60 layers, in whatever order a build of torch adds them
)

PARAMS = {
    "ddrnet23_slim": {19: 5_695_987, 11: 5_695_467, 150: 5_704_502},
    "lraspp_mobilenet_v3_large": {19: 3_221_198, 11: 3_219_838, 150: 3_243_468},
}


def filled(name: str, **options: Any) -> Student:
    student = es.create(name, classes=19, **options)
    student.load_state_dict(fill(student.state_dict()))
    return student.eval()


def assert_close(got: Tensor, reference: Tensor) -> None:
    assert got.shape == reference.shape
    assert float((got - reference).abs().max()) <= WITHIN * float(reference.abs().max())


@pytest.mark.parametrize(("name", "classes", "count"), [(n, c, p) for n, row in PARAMS.items() for c, p in row.items()])
def test_parameters(name: str, classes: int, count: int) -> None:
    student = es.create(name, classes=classes)
    assert sum(value.numel() for value in student.deployed_parameters()) == count


@torch.inference_mode()
@pytest.mark.parametrize("size", [(128, 256), (192, 320)])
def test_ddrnet_is_the_authors_network(size: tuple[int, int]) -> None:
    student = filled("ddrnet23_slim", auxiliary=True)
    image = uniform(f"input:ddrnet23_slim:{size}", (1, 3, *size), -2, 2)
    with np.load(GOLDEN / "ddrnet23_slim.npz") as golden:
        wanted = [torch.from_numpy(golden[f"{size[0]}x{size[1]}{ending}"]) for ending in ("", "_extra")]
    for got, reference in zip(student.training_logits(image), wanted, strict=True):
        assert_close(got, reference)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(128, 256), (97, 161)])
def test_lraspp_is_torchvisions_network(size: tuple[int, int]) -> None:
    image = uniform(f"input:lraspp_large:{size}", (1, 3, *size), -2, 2)
    with np.load(GOLDEN / "lraspp_mobilenet_v3_large.npz") as golden:
        reference = torch.from_numpy(golden[f"{size[0]}x{size[1]}"])
    assert_close(filled("lraspp_mobilenet_v3_large")(image)[..., ::5, ::5], reference)


def bundle(name: str) -> dict[str, Any]:
    folder = Path(os.environ.get("EDGESEG_PARITY", Path(__file__).resolve().parents[3] / "shared" / "parity"))
    file = folder / f"{name}.pt"
    if not file.exists():
        pytest.skip(f"needs the parity bundles: set EDGESEG_PARITY to their folder ({file} is not there)")
    document: dict[str, Any] = torch.load(file, weights_only=True)
    return document


@pytest.mark.slow
@torch.inference_mode()
def test_ddrnet_on_the_whole_bundle() -> None:
    document = bundle("ddrnet23_slim")
    student = filled("ddrnet23_slim", auxiliary=True)
    assert {key: list(value.shape) for key, value in student.state_dict().items()} == document["keys"]
    for case in document["cases"].values():
        for got, name in zip(student.training_logits(case["input"]), ("output", "output_extra"), strict=True):
            assert_close(got, case[name])


@pytest.mark.slow
@torch.inference_mode()
def test_lraspp_on_the_whole_bundle() -> None:
    document = bundle("lraspp_mobilenet_v3_large")
    student = filled("lraspp_mobilenet_v3_large")
    assert {key: list(value.shape) for key, value in student.state_dict().items()} == document["keys"]
    for case in document["cases"].values():
        assert_close(student(case["input"]), case["output"])
        for got, name in zip(student.forward_features(case["input"]), ("low", "high"), strict=True):
            assert_close(got, case[name])


Change = Callable[[dict[str, Tensor]], Any]


def store(path: Path, change: Change = lambda state: state) -> tuple[Student, Path]:
    """A filled LR-ASPP, and its weights on disk as someone else might have saved them."""
    student = filled("lraspp_mobilenet_v3_large")
    torch.save(change(dict(student.state_dict())), path)
    return student, path


WRAPPED: dict[str, Change] = {
    "as it is": lambda state: state,
    "model.": lambda state: {f"model.{key}": value for key, value in state.items()},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "module.model.": lambda state: {f"module.model.{key}": value for key, value in state.items()},
    "model.module.": lambda state: {f"model.module.{key}": value for key, value in state.items()},
    "beside its criterion": lambda state: {
        **{f"model.{key}": value for key, value in state.items()},
        "loss.criterion.weight": torch.ones(19),
    },
    "beside its auxiliary head": lambda state: {**state, "aux_criterion.weight": torch.ones(19)},
    "inside a training state": lambda state: {"state_dict": state, "epoch": 7},
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("how", list(WRAPPED))
def test_official_weights_load_however_they_were_saved(tmp_path: Path, how: str) -> None:
    theirs, file = store(tmp_path / "official.pth", WRAPPED[how])
    ours = es.load_official(es.create(theirs.name, classes=19), file)
    wanted = theirs.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in ours.state_dict().items())


def test_a_wrong_number_of_classes_is_named(tmp_path: Path) -> None:
    _, file = store(tmp_path / "official.pth")
    with pytest.raises(
        EdgesegError, match=r"does not fit .* with 11 classes: .*low_classifier.weight is \[19, 40, 1, 1\]"
    ):
        es.load_official(es.create("lraspp_mobilenet_v3_large", classes=11), file)


def test_what_is_missing_or_left_over_is_named(tmp_path: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state["head.weight"] = state.pop("backbone.0.0.weight")
        return state

    student, file = store(tmp_path / "official.pth", spoil)
    with pytest.raises(EdgesegError, match=r"missing backbone\.0\.0\.weight, unexpected head\.weight"):
        es.load_official(student, file)


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "it ran"
    student, _ = store(tmp_path / "unused.pth")
    for name, write in (
        ("zip.pth", torch.save),
        ("bare.pth", lambda value, file: file.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        write({"weight": Trap(trap)}, tmp_path / name)
        with pytest.raises(EdgesegError, match="no checkpoint that loads without running code"):
            es.load_official(student, tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, tiny_run: Path, ending: str, part: float) -> None:
    student, whole = store(tmp_path / "whole.pth")
    if ending == ".safetensors":
        whole = tiny_run / "model.safetensors"
    data = whole.read_bytes()
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(EdgesegError, match="is cut off") as caught:
        es.load_official(student, cut)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "garbage", [b"hello", b"\x80\x02.", b"q", bytes(range(256)), b"PK\x03\x04", b"0.", b"\x80\x02K\x01."]
)
def test_a_foreign_file_is_one_clear_line(tmp_path: Path, garbage: bytes) -> None:
    file = tmp_path / "official.pth"
    file.write_bytes(garbage)
    with pytest.raises(EdgesegError, match=r"official\.pth") as caught:
        es.load_official(es.create("lraspp_mobilenet_v3_large", classes=19), file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match=r"nothing\.pth does not exist"):
        es.load_official(es.create("ddrnet23_slim", classes=19), tmp_path / "nothing.pth")

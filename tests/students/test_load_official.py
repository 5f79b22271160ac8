"""Official checkpoints load however they were saved, strictly, and never run code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edgeseg as es
from edgeseg.errors import EdgesegError
from edgeseg.students import Student
from tests.students.official import filled

Change = Callable[[dict[str, Tensor]], Any]


def store(path: Path, change: Change = lambda state: state) -> tuple[Student, Path]:
    """A filled LR-ASPP, and its weights on disk as someone else might have saved them."""
    student: Student = filled("lraspp_mobilenet_v3_large", classes=19)
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

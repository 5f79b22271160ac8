"""Paddle's checkpoints are read without Paddle, and a pickle that wants more than arrays gets nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeseg as es
from edgeseg.errors import EdgesegError
from edgeseg.paddle import read_pdparams
from tests.students.test_families import paddle_names

ARRAYS: dict[str, Any] = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "turned": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "half": np.array([0.5, -2], np.float16),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def write(file: Path, document: Any, protocol: int) -> Path:
    file.write_bytes(pickle.dumps(document, protocol=protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("named", [False, True], ids=["arrays", "with their names"])
def test_arrays_come_back(tmp_path: Path, protocol: int, named: bool) -> None:
    document: dict[str, Any] = {key: (key, value) if named else value for key, value in ARRAYS.items()}
    document["StructuredToParameterName@@"] = {key: f"param_{i}" for i, key in enumerate(ARRAYS)}
    read = read_pdparams(write(tmp_path / "model.pdparams", document, protocol))
    assert read.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert read[key].dtype == value.dtype
        assert np.array_equal(read[key], value)


def test_a_student_loads_them_strictly(tmp_path: Path) -> None:
    theirs = es.create("pp_mobileseg_tiny", classes=4)
    arrays = {key: value.numpy() for key, value in paddle_names(theirs.state_dict()).items()}
    ours = es.load_official(es.create("pp_mobileseg_tiny", classes=4), write(tmp_path / "m.pdparams", arrays, 2))
    wanted = theirs.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in ours.state_dict().items())
    arrays["extra"] = arrays.pop("decode_head.conv_seg.bias")
    with pytest.raises(EdgesegError, match=r"missing decode_head\.conv_seg\.bias, unexpected extra"):
        es.load_official(ours, write(tmp_path / "m.pdparams", arrays, 2))


def test_another_size_of_the_family_is_refused(tmp_path: Path) -> None:
    base = es.create("pp_mobileseg_base", classes=4)
    arrays = {key: value.numpy() for key, value in paddle_names(base.state_dict()).items()}
    with pytest.raises(EdgesegError, match="does not fit pp_mobileseg_tiny with 4 classes"):
        es.load_official(es.create("pp_mobileseg_tiny", classes=4), write(tmp_path / "m.pdparams", arrays, 2))


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "it ran"
    for document in (Trap(trap), {"weight": Trap(trap)}, {"weight": np.array([Trap(trap)], object)}):
        file = write(tmp_path / "m.pdparams", document, protocol)
        with pytest.raises(EdgesegError, match="no Paddle checkpoint that loads without running code") as caught:
            read_pdparams(file)
        assert "\n" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, part: float) -> None:
    data = write(tmp_path / "m.pdparams", ARRAYS, 2).read_bytes()
    (tmp_path / "m.pdparams").write_bytes(data[: int(part * len(data))])
    with pytest.raises(EdgesegError, match="is cut off") as caught:
        read_pdparams(tmp_path / "m.pdparams")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("garbage", [b"hello", b"\x80\x02.", b"PK\x03\x04", bytes(range(256)), b"\x80\x02K\x01."])
def test_a_foreign_file_is_one_clear_line(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "m.pdparams").write_bytes(garbage)
    with pytest.raises(EdgesegError, match=r"m\.pdparams"):
        read_pdparams(tmp_path / "m.pdparams")


def test_a_huge_shape_without_data_takes_no_memory(tmp_path: Path) -> None:
    whole = pickle.dumps({"w": np.zeros(1, np.float32)}, protocol=2)
    (tmp_path / "m.pdparams").write_bytes(whole.replace(b"K\x01K\x01\x85", b"K\x01J\xff\xff\xff\x7f\x85"))
    with pytest.raises(EdgesegError, match="cut off"):
        read_pdparams(tmp_path / "m.pdparams")


def test_a_mapping_of_something_else_is_refused(tmp_path: Path) -> None:
    for document in ([1], {"a": "text"}, {}):
        with pytest.raises(EdgesegError, match="no name -> array mapping"):
            read_pdparams(write(tmp_path / "m.pdparams", document, 2))
    with pytest.raises(EdgesegError, match="does not exist"):
        read_pdparams(tmp_path / "nothing.pdparams")

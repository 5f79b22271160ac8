"""Videos: whatever their files say of themselves, what is written can be played, or nothing is replaced."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.predict import USUAL_RATE, predict_file
from edgeseg.students import Student, create


@pytest.fixture
def student() -> Student:
    return create("pp_mobileseg_tiny", classes=3).eval()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four frames."""
    file = tmp_path / "drive.mov"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for shade in range(4):
        writer.write(np.full((64, 96, 3), 60 * shade, np.uint8))
    writer.release()
    return file


def reporting(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Videos say that they have this many frames per second."""
    real = cv2.VideoCapture

    class Reader:
        def __init__(self, name: str) -> None:
            self._inner = real(name)

        def get(self, what: int) -> float:
            return rate if what == cv2.CAP_PROP_FPS else self._inner.get(what)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(cv2, "VideoCapture", Reader)


@pytest.mark.parametrize("rate", [90000.0, math.nan, math.inf, 0.0, -1.0, 10.0, 29.97, 0.5, 999.5])
def test_a_rate_that_is_none_is_replaced(
    video: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    with monkeypatch.context() as patch:
        reporting(patch, rate)
        (written,) = predict_file(student, video, tmp_path / "out")
    assert written.stat().st_size > 0
    made = cv2.VideoCapture(str(written))
    frames = 0
    while made.read()[0]:
        frames += 1
    assert frames == 4
    assert made.get(cv2.CAP_PROP_FPS) == pytest.approx(rate if 0.1 <= rate <= 1000 else USUAL_RATE, rel=1e-3)


class Shut:
    """A writer that cannot encode: it takes what it is given all the same."""

    fourcc = staticmethod(cv2.VideoWriter.fourcc)

    def __init__(self, *_: object) -> None: ...

    def isOpened(self) -> bool:
        return False

    def write(self, frame: object) -> None: ...

    def release(self) -> None: ...


class Silent(Shut):
    """One that says it can, and writes nothing."""

    def isOpened(self) -> bool:
        return True


@pytest.mark.parametrize("writer", [Shut, Silent])
def test_a_video_that_cannot_be_written_replaces_none(
    video: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: type[Shut]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "drive-overlay.mp4").write_bytes(b"a good one")
    monkeypatch.setattr(cv2, "VideoWriter", writer)
    with pytest.raises(EdgesegError, match=r"drive.mov is 96x64 at 10 frames a second, which OpenCV here cannot write"):
        predict_file(student, video, out)
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("drive-overlay.mp4", b"a good one")]

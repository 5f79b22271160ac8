"""Images without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeseg.data import Data
from edgeseg.data.unlabelled import unlabelled
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.pictures import save_picture
from tests.conftest import TINY


def test_photos_in_a_folder_and_below(tmp_path: Path, tiny_data: Data) -> None:
    image = tiny_data.split("train")[0][0]
    for name in ("b.png", "deeper/a.png"):
        save_picture(tmp_path / name, image)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    split = unlabelled(str(tmp_path))
    assert split.names == ("b", "a")
    assert np.array_equal(split[1][0], image)
    assert split[1][1].shape == image.shape[:2]
    assert (split[1][1] == VOID).all()
    assert split.problems() == []
    (tmp_path / "cut.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    assert [line for line in unlabelled(str(tmp_path)).problems() if "cut.png" in line]


def test_the_labels_of_a_data_set_are_not_looked_at(tiny_data: Data) -> None:
    split, whole = unlabelled(TINY), tiny_data.split(tiny_data.fit)
    assert split.names == whole.names
    assert np.array_equal(split[3][0], whole[3][0])
    assert (split[3][1] == VOID).all()


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match=r"holds no image; expected .*png"):
        unlabelled(str(tmp_path))
    with pytest.raises(EdgesegError, match="nowhere does not exist; give a folder of photos"):
        unlabelled("nowhere")
    shutil.copy(__file__, tmp_path / "file")
    with pytest.raises(EdgesegError, match="is not a folder"):
        unlabelled(str(tmp_path / "file"))

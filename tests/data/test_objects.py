"""`objects:PATH` in both layouts, and what is wrong with a folder said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.data import load_data
from edgeseg.data.check import check
from edgeseg.data.regions import regions
from edgeseg.errors import EdgesegError


def pair(root: Path, name: str, ids: np.ndarray, images: str = "images", instances: str = "instances") -> None:
    for folder, array, ending in ((images, np.zeros((*ids.shape, 3), np.uint8), "jpg"), (instances, ids, "png")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / f"{name}.{ending}")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    ids = np.zeros((8, 10), np.uint8)
    ids[2:5, 2:5], ids[7] = 200, 255
    names = [f"n{index:02d}" for index in range(24)]
    for name in names:
        pair(tmp_path, name, ids)
    entries = [{"image": name, "split": "test" if index % 6 == 0 else "dev"} for index, name in enumerate(names)]
    (tmp_path / "objects.json").write_text(json.dumps({"images": entries, "objects": []}))
    return tmp_path


def test_splits_follow_the_list(listed: Path) -> None:
    data = load_data(f"objects:{listed}")
    assert (data.task, data.class_names) == ("promptable", ("background", "object"))
    names = {name: set(data.split(name).names) for name in ("fit", "held", "dev", "test")}
    assert [len(names[name]) for name in ("fit", "held", "dev", "test")] == [18, 2, 20, 4]
    assert names["fit"] | names["held"] == names["dev"]
    assert not names["fit"] & names["held"]
    image, ids = data.split("test")[0]
    assert image.shape == (8, 10, 3)
    assert set(np.unique(ids)) == {0, 200, 255}
    assert check(data, ["fit", "test"]) == []


def test_folders_by_split(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        pair(tmp_path, "a", np.ones((4, 4), np.uint8), f"{split}/images", f"{split}/instances")
    data = load_data(f"objects:{tmp_path}")
    assert (data.fit, data.select, data.test) == ("train", "val", "test")
    assert len(data.split("val")) == 1


def test_what_is_wrong_is_said(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pair(listed, "stray", np.zeros((8, 10), np.uint8))
    with pytest.raises(EdgesegError, match="does not say which split stray is in"):
        load_data(f"objects:{listed}")
    (listed / "objects.json").write_text("[]")
    with pytest.raises(EdgesegError, match="expected"):
        load_data(f"objects:{listed}")
    with pytest.raises(EdgesegError, match="no training images and masks"):
        load_data(f"objects:{tmp_path_factory.mktemp('nothing')}")


def test_generated_objects_depend_on_their_place_alone() -> None:
    data = load_data("synthetic_objects:size=64x80,train=6,val=2,test=2,seed=3")
    first, again = (data.split("train")[4] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[1].shape == (64, 80)
    assert len(np.unique(first[1])) > 1
    assert not np.array_equal(first[0], data.split("train")[5][0])
    with pytest.raises(EdgesegError, match="of synthetic_objects: expected"):
        load_data("synthetic_objects:size=1x1")


def test_regions_of_semantic_labels() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 15] = 255  # tears class 0 in two
    labels[:9, 20:], labels[0, 0] = 3, 7
    ids = regions(labels)
    assert [int((ids == n).sum()) for n in range(5)] == [0, 299, 190, 90, 0]
    assert ids[0, 0] == ids[0, 15] == 255


def test_semantic_data_as_objects() -> None:
    data, of = (load_data(f"{kind}synthetic:size=64x96,train=4,val=3,test=4") for kind in ("regions:", ""))
    assert (data.task, data.fit, data.class_names) == ("promptable", of.fit, ("background", "object"))
    image, ids = data.split("val")[1]
    np.testing.assert_array_equal(image, of.split("val")[1][0])
    assert 0 < len(np.unique(ids)) < 255
    assert check(data, ["train", "val"]) == []
    with pytest.raises(EdgesegError, match="has objects already"):
        load_data("regions:synthetic_objects")
    with pytest.raises(EdgesegError, match="regions: expected a semantic data set"):
        load_data("regions:")

"""camvid, cityscapes and folder: layouts, classes and which split serves what."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from edgeseg.data import Split, load_data
from edgeseg.data.cityscapes import CLASSES, LABEL_IDS
from edgeseg.errors import EdgesegError
from edgeseg.pictures import distinct_colours

Write = Callable[..., None]


def test_camvid_holds_a_block_out_of_each_sequence(camvid: Path) -> None:
    data = load_data(f"camvid:{camvid}")
    names = {name: data.split(name).names for name in data.splits}
    assert (data.fit, data.select, data.test) == ("fit", "held", "test")
    assert len(data.class_names) == len(data.palette) == 11
    assert names["trainval"] == names["train"] + names["val"]
    # A goes on in test: the last 5 of its 30 frames are left out, then 3 held, then a gap of 5
    assert names["held"] == ("A_022", "A_023", "A_024", "B_018", "B_019")
    assert names["fit"] == tuple([f"A_{n:03d}" for n in range(17)] + [f"B_{n:03d}" for n in range(13)])


def test_camvid_void_is_255(camvid: Path) -> None:
    split = load_data(f"camvid:{camvid}").split("train")
    stored = np.array(Pillow.open(camvid / "train" / "labels" / "A_000.png"))
    image, labels = split[0]
    assert image.shape == (12, 16, 3)
    np.testing.assert_array_equal(labels, np.where(stored == 11, 255, stored))
    assert (stored == 11).any()


def test_camvid_in_the_original_layout(camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    old, new = load_data(f"camvid:{camvid}"), tmp_path_factory.mktemp("segnet")
    for split in ("train", "val", "test"):
        (new / f"{split}annot").mkdir()
        (new / split).mkdir()
        for image in (camvid / split / "images").iterdir():
            Pillow.open(image).save(new / split / f"{image.stem}.png")
        for mask in (camvid / split / "labels").iterdir():
            (new / f"{split}annot" / mask.name).write_bytes(mask.read_bytes())
        (new / f"{split}.txt").write_text("/SegNet/CamVid/train/0.png /SegNet/CamVid/trainannot/0.png\n")
    data = load_data(f"camvid:{new}")
    for split in data.splits:
        assert data.split(split).names == old.split(split).names
    for a, b in zip(data.split("test")[1], old.split("test")[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_split_can_be_pickled(camvid: Path) -> None:
    split = load_data(f"camvid:{camvid}").split("held")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(split))[2][1], split[2][1])


@pytest.fixture
def cityscapes(tmp_path: Path, put: Write) -> Path:
    """Eleven cities with two images each; `val` has its train ids ready."""
    for split, cities, end in (("train", "abcdefghijk", "labelIds"), ("val", "z", "labelTrainIds")):
        for city in cities:
            for number in range(2):
                name = f"{city}_00000{number}_000019"
                image = tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
                mask = tmp_path / "gtFine" / split / city / f"{name}_gtFine_{end}.png"
                put(image, mask, number, ids=34 if end == "labelIds" else 19)
                put(mask.with_name(f"{name}_gtFine_color.png"), mask.with_name(f"{name}_gtFine_instanceIds.png"))
    return tmp_path


def test_cityscapes_maps_ids_and_holds_cities_out(cityscapes: Path) -> None:
    data = load_data(f"cityscapes:{cityscapes}")
    assert (data.fit, data.select, data.test) == ("fit", "held", "val")
    assert {name[0] for name in data.split("held").names} == {"k"}
    assert {name[0] for name in data.split("fit").names} == set("abcdefghij")
    assert len(data.split("train")) == 22

    stored = np.array(Pillow.open(next((cityscapes / "gtFine/train/a").glob("*1_000019_gtFine_labelIds.png"))))
    labels = data.split("train")[1][1]
    np.testing.assert_array_equal(labels, np.vectorize(LABEL_IDS.get)(stored))
    assert set(labels.flat) == {*range(19), 255}
    ready = np.array(Pillow.open(next((cityscapes / "gtFine/val/z").glob("*0_000019_gtFine_labelTrainIds.png"))))
    np.testing.assert_array_equal(data.split("val")[0][1], ready)


def test_cityscapes_table() -> None:
    assert len(LABEL_IDS) == 34
    assert [id for _, id in sorted((stored, LABEL_IDS[stored]) for stored, _, _ in CLASSES)] == list(range(19))
    assert LABEL_IDS[7] == 0  # road
    assert LABEL_IDS[33] == 18  # bicycle
    assert LABEL_IDS[29] == 255  # caravan is not evaluated


def test_cityscapes_needs_two_cities(tmp_path: Path, put: Write) -> None:
    image = tmp_path / "leftImg8bit/train/a/a_0_0_leftImg8bit.png"
    put(image, tmp_path / "gtFine/train/a/a_0_0_gtFine_labelIds.png")
    with pytest.raises(EdgesegError, match="one city"):
        load_data(f"cityscapes:{tmp_path}").split("fit")


@pytest.mark.parametrize("layout", ["{0}/images {0}/masks", "{0}/images {0}/labels", "images/{0} masks/{0}"])
def test_folder_layouts(layout: str, tmp_path: Path, put: Write) -> None:
    for split in ("train", "val", "test"):
        images, masks = (tmp_path / part for part in layout.format(split).split())
        for seed in range(3):
            put(images / f"{seed}.jpg", masks / f"{seed}.png", seed, ids=4)
    data = load_data(f"folder:{tmp_path}")
    assert (data.fit, data.select, data.test) == ("train", "val", "test")
    assert data.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert {name: len(data.split(name)) for name in data.splits} == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize("other", ["val", "test"])
def test_folder_with_two_splits_holds_out_of_train(other: str, tmp_path: Path, put: Write) -> None:
    for split, count in (("train", 20), (other, 2)):
        for n in range(count):
            put(tmp_path / split / "images" / f"{n:02d}.jpg", tmp_path / split / "masks" / f"{n:02d}.png", n)
    data = load_data(f"folder:{tmp_path}")
    assert (data.fit, data.select, data.test) == ("fit", "held", other)
    assert data.split("held").names == ("18", "19")
    assert len(data.split("fit")) == 18


def test_folder_with_only_train_is_refused(tmp_path: Path, put: Write) -> None:
    put(tmp_path / "train/images/a.jpg", tmp_path / "train/masks/a.png")
    with pytest.raises(EdgesegError, match="never trained on"):
        load_data(f"folder:{tmp_path}")


@pytest.fixture
def two_splits(tmp_path: Path, put: Write) -> Path:
    """A folder of train and val with ids 0..2 and, in one mask, 255."""
    for split in ("train", "val"):
        for n in range(3):
            put(tmp_path / split / "images" / f"{n}.jpg", tmp_path / split / "masks" / f"{n}.png", n, ids=3)
    put(tmp_path / "train/images/0.jpg", tmp_path / "train/masks/0.png", ids=256)
    return tmp_path


def test_folder_classes_from_the_file(two_splits: Path, put: Write) -> None:
    put(two_splits / "train/images/0.jpg", two_splits / "train/masks/0.png", ids=3)
    classes: list[dict[str, Any]] = [{"id": 1, "name": "sky"}, {"id": 0, "name": "road", "color": [1, 2, 3]}]
    (two_splits / "classes.json").write_text(json.dumps({"classes": classes, "void": 2}))
    data = load_data(f"folder:{two_splits}")
    assert data.class_names == ("road", "sky")
    assert data.palette == ((1, 2, 3), distinct_colours(2)[1])
    assert set(data.split("train")[1][1].flat) == {0, 1, 255}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"classes": [{"id": 0, "name": "a"}, {"id": 2, "name": "b"}]}, "must be 0, 1, 2 and so on"),
        ({"classes": [{"id": 0, "name": "a"}]}, "at least two"),
        ({"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}], "void": 1}, "no class has"),
        ({"classes": [{"id": 0}]}, "classes.0.name"),
        ("road, sky", "is not JSON"),
    ],
)
def test_folder_refuses_a_wrong_classes_file(two_splits: Path, document: object, words: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (two_splits / "classes.json").write_text(text)
    with pytest.raises(EdgesegError, match=words) as error:
        load_data(f"folder:{two_splits}")
    assert "classes.json" in str(error.value)


def test_folder_counts_classes_without_void(two_splits: Path, put: Write) -> None:
    assert len(load_data(f"folder:{two_splits}").class_names) == 255  # ids 0..254
    for n in range(3):
        for split in ("train", "val"):
            mask = np.zeros((12, 16), np.uint8)
            mask[0] = 255
            Pillow.fromarray(mask).save(two_splits / split / "masks" / f"{n}.png")
    with pytest.raises(EdgesegError, match="store 0 and 1 for two classes"):
        load_data(f"folder:{two_splits}")


def test_generated_colours_are_distinct() -> None:
    colours = np.array(distinct_colours(40), int)
    apart = np.abs(colours[:, None] - colours).sum(-1) + 1000 * np.eye(40, dtype=int)
    assert apart.min() >= 64
    assert len({(0, 0, 0), *distinct_colours(255)}) == 256  # black is left to void


@pytest.mark.slow
def test_the_real_camvid(real_camvid: Path) -> None:
    data = load_data(f"camvid:{real_camvid}")
    counts = {"train": 367, "val": 101, "test": 233, "trainval": 468, "fit": 311, "held": 36}
    assert {name: len(data.split(name)) for name in data.splits} == counts

    image, labels = data.split("train")[0]
    assert data.split("train").names[0] == "0001TP_006690"
    assert image.shape == (360, 480, 3)
    assert set(labels.flat) <= {*range(11), 255}
    train = data.split("train")
    pixels = np.sum([np.bincount(train[index][1].flat, minlength=256) for index in range(0, 367, 10)], axis=0)
    assert pixels.sum() == 37 * 360 * 480
    assert 1 - pixels[255] / pixels.sum() > 0.9
    assert data.class_names[pixels[:11].argmax()] == "Road"

    held = _frames(data.split("held"))
    fit = _frames(data.split("fit"))
    for sequence, number in held:
        assert min(abs(number - other) for name, other in fit if name == sequence) > 5 * SECOND
    assert max(number for name, number in held if name == "0001TP") < 8550 - 5 * SECOND  # where test goes on


SECOND = 30
"""Frame numbers of CamVid per second."""


def _frames(split: Split) -> list[tuple[str, int]]:
    """Sequence and frame number: `0006R0_f00930` is 930 of `0006R0`."""
    return [(name.split("_")[0], int(name.split("_")[1].lstrip("f"))) for name in split.names]

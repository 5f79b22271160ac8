"""Published data sets, each as a miniature in its own layout: splits, classes, void, and what is said where something is not there."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from edgeseg.data import Data, load_data
from edgeseg.data.base import LOADERS
from edgeseg.data.check import check
from edgeseg.data.published import classes, hold_some
from edgeseg.errors import EdgesegError
from tests.data.miniatures import MINIATURES, H, W, ids, photo, save

OWN = {"camvid", "cityscapes", "folder", "hf", "objects", "regions", "shards", "synthetic", "synthetic_objects"}
"""Kinds that have tests of their own."""


@pytest.fixture(params=MINIATURES)
def mini(request: pytest.FixtureRequest, tmp_path: Path) -> Data:
    """A data set of every published kind."""
    MINIATURES[request.param](tmp_path)
    return load_data(f"{request.param}:{tmp_path}")


def test_every_kind_is_tested() -> None:
    assert set(LOADERS) == OWN | set(MINIATURES)


@pytest.mark.parametrize("kind", list(LOADERS))
def test_help_names_every_kind(kind: str) -> None:
    from edgeseg.cli.app import DATA

    assert kind in DATA.replace(",", "").replace(".", "").split()


def test_every_split_gives_images_and_labels_that_fit(mini: Data) -> None:
    known = {255, *range(len(mini.class_names) if mini.task == "semantic" else 255)}
    assert check(mini, list(mini.splits)) == []
    for name in mini.splits:
        split = mini.split(name)
        again = pickle.loads(pickle.dumps(split))
        for index in (0, len(split) - 1):
            image, labels = split[index]
            assert image.shape == (H, W, 3)
            assert image.dtype == labels.dtype == np.uint8
            assert set(np.unique(labels).tolist()) <= known
            np.testing.assert_array_equal(labels, again[index][1])
    fit, select, test = (set(mini.split(name).names) for name in (mini.fit, mini.select, mini.test))
    assert not fit & select
    assert fit and select and test
    assert len(mini.class_names) == len(mini.palette) == len(set(mini.class_names))


@pytest.mark.parametrize("kind", MINIATURES)
def test_what_is_not_there_is_said_with_the_page(kind: str, tmp_path: Path) -> None:
    MINIATURES[kind](tmp_path / "data")
    for spec in (f"{kind}:", f"{kind}:{tmp_path / 'nowhere'}", f"{kind}:{tmp_path}"):
        with pytest.raises(EdgesegError, match=r"https?://") as error:
            load_data(spec).split("train")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", MINIATURES)
def test_half_a_data_set_is_not_taken(kind: str, tmp_path: Path) -> None:
    MINIATURES[kind](tmp_path)
    photos = sorted(path for path in tmp_path.rglob("*.jpg") if "unlabelled" not in path.name)
    photos[len(photos) // 2].unlink()
    try:
        data = load_data(f"{kind}:{tmp_path}")
        lines = check(data, list(data.splits))
    except EdgesegError as error:
        lines = [str(error)]
    assert len(lines) == 1
    assert photos[len(photos) // 2].stem in lines[0]


def labels_of(kind: str, root: Path, split: str = "val") -> set[int]:
    return set(np.unique(load_data(f"{kind}:{root}").split(split)[0][1]).tolist())


def test_ade20k_counts_neither_0_nor_the_full_set(tmp_path: Path) -> None:
    MINIATURES["ade20k"](tmp_path)
    data = load_data(f"ade20k:{tmp_path / 'ADEChallengeData2016'}")
    assert (data.class_names[0], data.class_names[-1], len(data.class_names)) == ("wall", "flag", 150)
    assert data.palette[:2] == ((120, 120, 120), (180, 120, 120))
    labels = data.split("val")[0][1]
    assert [labels.flat[0], labels.flat[1], labels.flat[150]] == [255, 0, 149]
    photo(tmp_path / "full" / "images" / "training" / "a" / "abbey" / "ADE_train_00000970.jpg")
    photo(tmp_path / "new" / "images" / "ADE" / "training" / "urban" / "x.jpg")
    for folder in ("full", "new"):
        with pytest.raises(EdgesegError, match=r"is of the full ADE20K; .*ADEChallengeData2016"):
            load_data(f"ade20k:{tmp_path / folder}")


def test_voc_takes_the_labels_of_sbd_where_they_are(tmp_path: Path) -> None:
    MINIATURES["voc"](tmp_path)
    plain = load_data(f"voc:{tmp_path}")
    assert len(plain.class_names) == 21
    assert plain.palette[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert labels_of("voc", tmp_path) == {*range(21), 255}
    assert "trainaug" not in plain.splits
    root = tmp_path / "VOCdevkit" / "VOC2012"
    with Pillow.open(next((root / "SegmentationClass").glob("*.png"))) as file:
        assert file.mode == "P"  # the miniature is what VOC's files are
    listed = root / "ImageSets" / "Segmentation" / "trainaug.txt"
    names = [f"2007_train{n:03d}" for n in range(11)] + ["2012_unlabelled"]
    listed.write_text("".join(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in names))
    with pytest.raises(EdgesegError, match="SegmentationClassAug is not"):
        load_data(f"voc:{root}")
    for name in names:
        save(root / "SegmentationClassAug" / f"{name}.png", ids([3]))
    data = load_data(f"voc:{root}")
    assert data.split("trainaug").names == tuple(names)
    assert set(data.split("fit").names) | set(data.split("held").names) == set(names)
    assert set(np.unique(data.split("fit")[0][1])) == {3}
    assert data.split("train").names == plain.split("train").names
    listed.write_text("")
    with pytest.raises(EdgesegError, match="names no image"):
        load_data(f"voc:{root}").split("trainaug")


def test_masks_of_coco_stuff_are_one_less(tmp_path: Path) -> None:
    MINIATURES["coco_stuff"](tmp_path)
    data = load_data(f"coco_stuff:{tmp_path}")
    assert len(data.class_names) == 171
    labels = data.split("val")[0][1]
    shown = [data.class_names[label] for label in labels.flat[:4]]
    assert shown == ["person", "fire hydrant", "stop sign", "wood"]
    assert labels.flat[4] == 255
    save(tmp_path / "stuffthingmaps" / "val2017" / "000000000001.png", ids([11]))  # "street sign" was never annotated
    assert "label ids out of range: 11" in check(data, ["val"])[0]


def test_panoptic_segments_have_their_class(tmp_path: Path) -> None:
    MINIATURES["coco_panoptic"](tmp_path)
    data = load_data(f"coco_panoptic:{tmp_path}")
    assert len(data.class_names) == 133
    labels = data.split("val")[0][1]
    assert [data.class_names[labels[0, x]] for x in (4, 8)] == ["person", "rug-merged"]
    assert data.palette[labels[0, 4]] == (220, 20, 60)
    assert (labels[:, :4] == 255).all()
    mask = tmp_path / "annotations" / "panoptic_val2017" / "000000000000.png"
    save(mask, np.full((H, W, 3), 9, np.uint8))
    with pytest.raises(EdgesegError, match=f"segment {9 + 9 * 256 + 9 * 65536} is not in"):
        data.split("val")[0]
    save(mask, ids([1]))
    with pytest.raises(EdgesegError, match="is an RGB image, this is L"):
        data.split("val")[0]


@pytest.mark.parametrize("kind", ["coco", "lvis", "sa1b"])
def test_the_smaller_object_is_in_front(kind: str, tmp_path: Path) -> None:
    MINIATURES[kind](tmp_path)
    data = load_data(f"{kind}:{tmp_path}")
    labels = data.split(data.test)[0][1]
    wanted = np.zeros((H, W), np.uint8)
    wanted[2:8, 2:8], wanted[3:5, 3:5] = 1, 2
    if kind == "coco":
        wanted[:, -1] = 255  # the crowd
    np.testing.assert_array_equal(labels, wanted)


def test_images_without_objects_are_left_out(tmp_path: Path) -> None:
    MINIATURES["coco"](tmp_path)
    names = load_data(f"coco:{tmp_path}").split("train").names
    assert names == tuple(f"{n:012d}" for n in range(12))


def test_dis5k_is_cut_at_128(tmp_path: Path) -> None:
    MINIATURES["dis5k"](tmp_path)
    data = load_data(f"dis5k:{tmp_path}")
    assert data.split("te3")[0][1].flat[:4].tolist() == [0, 0, 1, 1]
    assert [len(data.split(name)) for name in ("train", "val", "te1", "test")] == [12, 3, 1, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "is not whole"),
        (lambda text: text.replace('"images"', '"pictures"'), "has no image with an annotation"),
        (lambda text: text.replace('"image_id"', '"image"'), "without 'image_id'"),
        (lambda text: "[]", r"expected \{, got \["),
        (lambda text: text.replace("0000.jpg", "/../../x.jpg"), "outside of the data's folder"),
        (lambda text: text.replace("[[2, 2, 8, 2, ", "[[2, "), "a polygon is x and y"),
        (lambda text: text.replace(f'"size": [{H}', '"size": [7'), "a run-length mask of size"),
        (lambda text: text.replace(f'"height": {H}', '"height": 9'), "but its annotations are for 9x16"),
    ],
)
def test_a_wrong_coco_file_is_one_line(tmp_path: Path, change: object, words: str) -> None:
    MINIATURES["coco"](tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(change(file.read_text()))  # type: ignore[operator]
    with pytest.raises(EdgesegError, match=words) as error:
        load_data(f"coco:{tmp_path}").split("val")[0]
    assert "\n" not in str(error.value)


def test_sa1b_says_what_is_wrong(tmp_path: Path) -> None:
    MINIATURES["sa1b"](tmp_path)
    data = load_data(f"sa1b:{tmp_path}")
    assert data.split("train").names[:3] == ("sa_000000/sa_0", "sa_000000/sa_1", "sa_000000/sa_2")  # by number
    assert "sa_000001/sa_15" in data.split("test").names
    file = tmp_path / "sa_000000" / "sa_0.json"
    file.write_text(json.dumps([]))
    with pytest.raises(EdgesegError, match="is it of SA-1B"):
        data.split("train")[0]
    shutil.rmtree(tmp_path / "sa_000001")
    file.unlink()
    with pytest.raises(EdgesegError, match=r"no \.json for sa_0;"):
        load_data(f"sa1b:{tmp_path}").split("train")


def test_held_out_images_are_spread(tmp_path: Path) -> None:
    for count, wanted in ((6, 1), (20, 2), (20_210, 962), (118_287, 994)):
        held, fit = (hold_some(range(count), part) for part in (True, False))
        assert len(held) == wanted
        assert sorted(held + fit) == list(range(count))
    with pytest.raises(EdgesegError, match="too few"):
        hold_some(range(5), held=True)


def test_tables_say_where_they_are_from() -> None:
    folder = Path(LOADERS["ade20k"].__code__.co_filename).parent / "classes"
    for file in folder.glob("*.tsv"):
        assert file.read_text(encoding="utf-8").count("\n# ") == 1
        table = classes(file.stem)
        assert list(table.stored) == sorted(set(table.stored))
        assert all(0 <= part <= 255 for colour in table.palette for part in colour)

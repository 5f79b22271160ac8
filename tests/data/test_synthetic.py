from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.data import load_data
from edgeseg.data.base import Image, Labels
from edgeseg.data.street import draw_scene
from edgeseg.data.street.layout import draw_street
from edgeseg.data.street.stage import CLASSES, Dice, Stage, noise_tile
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

SMALL = (64, 96)


def same(one: tuple[Image, Labels], other: tuple[Image, Labels]) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_defaults() -> None:
    data = load_data("synthetic")
    assert {name: len(data.split(name)) for name in data.splits} == {"train": 512, "val": 64, "test": 64}
    assert (data.fit, data.select, data.test, data.spec) == ("train", "val", "test", "synthetic")
    assert len(data.class_names) == len(set(data.class_names)) == len(data.palette) == len(set(data.palette)) == 10
    image, labels = data.split("train")[0]
    assert image.shape == (240, 320, 3) and labels.shape == (240, 320)
    assert image.dtype == labels.dtype == np.uint8


@pytest.mark.parametrize("size", [(64, 64), (65, 331), (350, 64)])
def test_any_size(size: tuple[int, int]) -> None:
    image, labels = load_data(f"synthetic:size={size[0]}x{size[1]},train=1").split("train")[0]
    assert image.shape == (*size, 3) and labels.shape == size
    assert set(np.unique(labels).tolist()) <= {*range(len(CLASSES)), VOID}
    assert image.std() > 10


@pytest.mark.parametrize(
    ("key", "size", "digest"),
    [
        ((0, 0, 0), (240, 320), "d1ca8948b27ff361"),
        ((0, 1, 7), (64, 64), "6972e32d487d7402"),
        ((7, 2, 3), (97, 140), "e35167729318f32e"),
        ((5, 0, 11), (360, 480), "3a1266f8f20dbb64"),
    ],
)
def test_labels_never_change(key: tuple[int, int, int], size: tuple[int, int], digest: str) -> None:
    assert hashlib.sha256(draw_scene(key, size)[1].tobytes()).hexdigest()[:16] == digest


def test_noise_repeats_and_is_centred() -> None:
    tile = noise_tile().astype(np.int64)
    assert abs(tile.mean()) < 1 and 60 < tile.std() < 68
    assert abs(tile[0] - tile[-1]).mean() < 1.5 * abs(tile[1] - tile[0]).mean()


def test_a_scene_depends_on_seed_split_and_index_only() -> None:
    data, longer = (load_data(f"synthetic:size=64x96,train={count}") for count in (2, 9))
    split = pickle.loads(pickle.dumps(data.split("train")))
    last = split[1]
    assert same(split[1], last) and same(split[-1], last) and same(longer.split("train")[1], last)
    assert [same(pair, last) for pair in split] == [False, True]  # iteration ends by itself
    others = (longer.split("train")[0], data.split("val")[1], data.split("test")[1])
    assert not any(same(other, last) for other in others)
    assert not same(load_data("synthetic:size=64x96,seed=1").split("train")[1], last)


def test_scenes_show_every_class_and_some_void() -> None:
    scenes = [draw_scene((0, 0, index), SMALL)[1] for index in range(30)]
    with_void = sum(VOID in labels for labels in scenes)
    assert set(np.unique(np.stack(scenes)).tolist()) == {*range(len(CLASSES)), VOID}
    assert 0 < with_void < 15
    assert all((labels == VOID).mean() < 0.15 for labels in scenes)


def test_layers_fit_a_byte() -> None:
    for index in range(30):
        stage = Stage(Dice(0, 0, index), SMALL)
        draw_street(stage)
        assert stage.canvas[..., 3].max() < len(stage.labels) <= 256


def histogram_iou(fit: list[tuple[Image, Labels]], test: list[tuple[Image, Labels]]) -> float:
    """Mean IoU of the most frequent class per cell of colour and place."""

    def cells(image: Image) -> NDArray[np.int64]:
        rows, columns = np.indices(image.shape[:2])
        place = rows * 6 // image.shape[0] * 6 + columns * 6 // image.shape[1]
        red, green, blue = (image[..., c].astype(np.int64) // 32 for c in range(3))
        cell: NDArray[np.int64] = ((place * 8 + red) * 8 + green) * 8 + blue
        return cell

    votes = np.zeros((36 * 512, VOID + 1), np.int64)
    for image, labels in fit:
        np.add.at(votes, (cells(image), labels), 1)
    answer = votes[:, : len(CLASSES)].argmax(1)
    truth, guess = np.stack([labels for _, labels in test]), np.stack([answer[cells(image)] for image, _ in test])
    kept = truth != VOID
    hits = [
        ((truth == c) & (guess == c)).sum() / (((truth == c) | (guess == c)) & kept).sum() for c in range(len(CLASSES))
    ]
    return float(np.mean(hits))


def test_colour_and_place_do_not_give_the_classes_away() -> None:
    fit, test = (
        [draw_scene((0, split, index), SMALL) for index in range(count)] for split, count in ((0, 40), (2, 12))
    )
    assert 0.1 < histogram_iou(fit, test) < 0.4


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("sized=64x64", "did you mean size"),
        ("trian=3", "did you mean train"),
        ("size=64", "size=64 of synthetic: expected HxW"),
        ("size=63x64", "sides from 64 to 4096"),
        ("size=64x-64", "sides from 64 to 4096"),
        ("size", "size= of synthetic"),
        ("train=0", "train=0 of synthetic: expected a whole number from 1"),
        ("seed=-1", "seed=-1 of synthetic: expected a whole number from 0"),
        ("val=²", "val=² of synthetic"),
    ],
)
def test_wrong_options_say_what_to_do(argument: str, words: str) -> None:
    with pytest.raises(EdgesegError, match=words):
        load_data(f"synthetic:{argument}")

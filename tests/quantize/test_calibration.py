"""Calibration images: never test images, enough of them, and written down."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.data import Data, load_data
from edgeseg.data.look import look_of
from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import Deployed, Interface
from edgeseg.quantize.calibration import NOISE, SWAPPED, choose_images
from edgeseg.quantize.post_training import feeds
from edgeseg.students import Semantic
from tests.quantize.conftest import SIZE


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images to learn from, three to select by, three to test on; no class 2 but in the tests, hardly any of class 3."""
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([len(split), index])
            image = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1)
            ids = np.zeros((120, 160), np.uint8)
            ids[:40], ids[-10:] = 1, 255
            if split == "test":
                ids[40:50] = 2
            if split == "train" and index == 5:
                ids[60, 60] = 3
            Image.fromarray(image).save(tmp_path / split / "images" / f"{split}{index}.png")
            Image.fromarray(ids).save(tmp_path / split / "masks" / f"{split}{index}.png")
    (tmp_path / "classes.json").write_text(
        '{"classes": [{"id": 0, "name": "road"}, {"id": 1, "name": "sky"}, {"id": 2, "name": "tram"}, {"id": 3, "name": "dog"}]}'
    )
    return tmp_path


def refused(data: Data, split: str | None, count: int) -> str:
    with pytest.raises(EdgesegError) as raised:
        choose_images(data, split, count)
    said = str(raised.value)
    assert "\n" not in said
    return said


def test_the_card_says_what_they_are(photos: Path) -> None:
    data = load_data(f"folder:{photos}")
    more: list[int] = []
    made = choose_images(data, None, 6, more.append)
    card = made.card
    assert card.data == f"folder:{photos}[train]"
    assert card.files == [f"train{index}" for index in range(6)]
    assert (card.count, card.overlaps_test, card.sizes) == (6, False, ["120x160"])
    assert sum(more) == 6
    digests = [hashlib.sha256(data.split("train")[index][0].tobytes()).hexdigest() for index in range(6)]
    assert card.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()
    labelled = 6 * 110 * 160  # void is no class
    assert card.classes == {
        "road": pytest.approx((6 * 70 * 160 - 1) / labelled, abs=1e-6),
        "sky": pytest.approx(40 / 110, abs=1e-6),
        "tram": 0,
        "dog": pytest.approx(1 / labelled, abs=1e-6),
    }
    unseen, rare = made.warnings()
    assert unseen.startswith("no calibration image shows tram: ")
    assert rare.startswith("calibration images hardly show dog ")


def test_other_pixels_are_another_card(photos: Path) -> None:
    before = choose_images(load_data(f"folder:{photos}"), None, 6).card
    assert choose_images(load_data(f"folder:{photos}"), None, 6).card == before
    file = photos / "train" / "images" / "train3.png"
    image = np.array(Image.open(file))
    image[7, 7, 1] ^= 1
    Image.fromarray(image).save(file)
    after = choose_images(load_data(f"folder:{photos}"), None, 6).card
    assert (after.files, after.sha256 == before.sha256) == (before.files, False)


def test_images_in_another_order_of_colours_are_doubted() -> None:
    data = load_data("synthetic")
    look = np.reshape(look_of(data.split("train")), (-1, 3))
    right, wrong = (choose_images(data, None, 24, look=each.ravel().tolist()) for each in (look, look[:, ::-1]))
    assert not right.card.doubts
    assert wrong.card.doubts == [SWAPPED] == wrong.warnings()[:1]


@pytest.mark.parametrize(("count", "doubts"), [(3, []), (4, [NOISE])])
def test_noise_is_doubted(photos: Path, count: int, doubts: list[str]) -> None:
    """Most of six images."""
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (120, 160, 3), np.uint8)
        Image.fromarray(noise).save(photos / "train" / "images" / f"train{index}.png")
    made = choose_images(load_data(f"folder:{photos}"), None, 6)
    assert made.card.doubts == doubts == made.warnings()[: len(doubts)]


@pytest.mark.parametrize(
    ("count", "names"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (5, [0, 1, 2, 3, 5]), (6, range(6))]
)
def test_they_are_spread_over_the_split(photos: Path, count: int, names: list[int]) -> None:
    card = choose_images(load_data(f"folder:{photos}"), None, count).card
    assert card.files == [f"train{index}" for index in names]


def test_the_split_to_select_by_may_be_asked_for(photos: Path) -> None:
    card = choose_images(load_data(f"folder:{photos}"), "val", 3).card
    assert card.data.endswith("[val]")
    assert card.classes["dog"] == 0


def test_test_images_are_refused_by_the_name_of_their_split(photos: Path) -> None:
    said = refused(load_data(f"folder:{photos}"), "test", 3)
    assert "[test] is what results are reported on; calibrate on train or val" in said


def test_too_few_are_refused(photos: Path) -> None:
    data = load_data(f"folder:{photos}")
    assert "[train] has 6 images, 7 are to be calibrated on; ask for fewer with --images" in refused(data, None, 7)
    assert "[train] has 6 images, 0 are" in refused(data, None, 0)
    assert "[train] has 6 images, -3 are" in refused(data, None, -3)


def test_a_split_that_there_is_not_is_refused(photos: Path) -> None:
    assert "no split of folder:" in refused(load_data(f"folder:{photos}"), "trian", 3)


@pytest.mark.parametrize("how", ["copied", "saved again", "with another name in another format"])
def test_a_test_image_among_them_is_refused(photos: Path, how: str) -> None:
    there, here = photos / "test" / "images" / "test1.png", photos / "train" / "images" / "train4.png"
    if how == "copied":
        shutil.copy(there, here)
    elif how == "saved again":
        Image.open(there).save(here, compress_level=1)
        assert there.read_bytes() != here.read_bytes()
    else:
        here.unlink()
        Image.open(there).save(here.with_suffix(".bmp"))
    data = load_data(f"folder:{photos}")
    said = refused(data, None, 6)
    assert f"1 of the calibration images are test images of {data.spec} too, e.g. train4; a result on them" in said
    choose_images(data, None, 2)  # not among these


def test_a_test_image_of_what_is_judged_on_is_refused_too(photos: Path, tmp_path: Path) -> None:
    """Calibrated on a folder of one's own, judged on a data set that some of it was taken from."""
    own, judged = tmp_path / "own", load_data(f"folder:{photos}")
    shutil.copytree(photos, own, ignore=shutil.ignore_patterns("own"))
    for kind in ("images", "masks"):
        for file in (own / "test" / kind).iterdir():
            file.unlink()
        Image.open(photos / "test" / kind / "test2.png").save(own / "train" / kind / "train0.png")
        Image.open(photos / "val" / kind / "val0.png").save(own / "test" / kind / "else.png")
    data = load_data(f"folder:{own}")
    choose_images(data, None, 6)  # not a test image of its own
    with pytest.raises(
        EdgesegError, match=f"1 of the calibration images are test images of {judged.spec} too, e.g. train0"
    ):
        choose_images(data, None, 6, judged=judged)


def test_only_the_pixels_count_not_the_mask(photos: Path) -> None:
    shutil.copy(photos / "test" / "masks" / "test1.png", photos / "train" / "masks" / "train4.png")
    assert not choose_images(load_data(f"folder:{photos}"), None, 6).card.overlaps_test


def test_sizes_that_differ_are_said(photos: Path) -> None:
    for kind in ("images", "masks"):
        file = photos / "train" / kind / "train0.png"
        Image.open(file).crop((0, 0, 80, 60)).save(file)
    made = choose_images(load_data(f"folder:{photos}"), None, 6)
    assert made.card.sizes == ["120x160", "60x80"]
    assert "calibration images have 2 sizes, 120x160, 60x80" in made.warnings()


@pytest.mark.parametrize(
    ("size", "said"), [((120, 160), 0), ((60, 80), 0), ((64, 86), 0), ((128, 128), 1), ((60, 100), 1), ((480, 640), 1)]
)
def test_images_that_are_stretched_are_said(photos: Path, size: tuple[int, int], said: int) -> None:
    made = choose_images(load_data(f"folder:{photos}"), None, 6)
    lines = [line for line in made.warnings(size) if "stretched" in line]
    assert len(lines) == said
    if said:
        assert lines[0].startswith(f"calibration images of 120x160 are stretched to {size[0]}x{size[1]}: ")
    assert not any("stretched" in line for line in made.warnings())


def test_an_empty_folder_is_one_line(photos: Path) -> None:
    for file in (photos / "train").rglob("*.png"):
        file.unlink()
    assert "no images in" in refused(load_data(f"folder:{photos}"), None, 1)
    shutil.rmtree(photos / "train")
    with pytest.raises(EdgesegError, match="no training images and masks there"):
        load_data(f"folder:{photos}")


def test_prompts_have_no_classes_to_miss() -> None:
    made = choose_images(load_data("synthetic_objects:size=64x96,train=4,val=2,test=2"), None, 4)
    assert made.card.classes == {}
    assert made.warnings() == []


@pytest.mark.parametrize("bake", [("pre",), ()])
@pytest.mark.parametrize("interface", [Interface(), Interface(layout="NHWC"), Interface(image="planes")], ids=str)
def test_images_come_as_the_network_takes_them(
    taught: Semantic, tiny_data: Data, bake: tuple[str, ...], interface: Interface
) -> None:
    """Normalised here, or inside: the student sees the same numbers."""
    network = Deployed(taught, SIZE, bake, interface)
    given = feeds(network, choose_images(tiny_data, None, 2))
    examples = tuple(network.feeds().values())
    for one, index in zip(given, (0, 23), strict=True):
        assert (one.shape, one.dtype) == (examples[0].shape, examples[0].dtype)
        image = tiny_data.split("train")[index][0].astype(np.float64) / 255
        wanted = ((image - taught.mean) / taught.std).transpose(2, 0, 1)[None]
        assert np.abs(network.normalised(one).numpy() - wanted).max() < 1e-5


def test_images_are_fitted_to_the_network(taught: Semantic, photos: Path) -> None:
    (one,) = feeds(Deployed(taught, SIZE, ("pre",)), choose_images(load_data(f"folder:{photos}"), None, 1))
    assert one.shape == (1, *SIZE, 3)

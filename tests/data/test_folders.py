"""Reading images and masks strictly, pairing files, and the check before training."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from edgeseg.data import Data, load_data
from edgeseg.data.base import LOADERS
from edgeseg.data.check import check, require
from edgeseg.data.folders import Pair, hold_out, pair_up, read_image, read_mask
from edgeseg.errors import EdgesegError

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def png(path: Path, bits: int, colour_type: int, rows: list[bytes]) -> None:
    """A PNG written by hand: Pillow does not write every kind that it reads."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    width = len(rows[0]) * 8 // bits
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))


def says(error: pytest.ExceptionInfo[EdgesegError], *words: str) -> None:
    """The message is one line and holds every one of `words`."""
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_every_kind_is_registered() -> None:
    assert {"synthetic", "camvid", "cityscapes", "folder"} <= set(LOADERS)


@pytest.mark.parametrize("spec", ["camvid", "cityscapes:", "folder"])
def test_a_path_is_asked_for(spec: str) -> None:
    with pytest.raises(EdgesegError) as error:
        load_data(spec)
    says(error, "needs a path", ":PATH")


@pytest.mark.parametrize("kind", ["camvid", "cityscapes", "folder"])
def test_what_is_not_a_data_set_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, words in (("none", "no such folder"), ("file", "not a folder"), (".", "train")):
        with pytest.raises(EdgesegError) as error:
            load_data(f"{kind}:{tmp_path / path}")
        says(error, str(tmp_path), words)


def test_an_unknown_kind_is_answered_with_near_ones() -> None:
    with pytest.raises(EdgesegError) as error:
        load_data("camvit:somewhere")
    says(error, "camvit", "did you mean camvid")


def test_masks_are_ids_however_they_are_packed(tmp_path: Path) -> None:
    palette = Pillow.fromarray(IDS).convert("P")
    palette.putpalette([200, 10, 30] * 256)
    for name, picture in (("grey", Pillow.fromarray(IDS)), ("palette", palette)):
        picture.save(tmp_path / f"{name}.png")
    Pillow.fromarray(IDS.astype(np.uint16)).save(tmp_path / "sixteen.png")
    png(tmp_path / "four.png", 4, 0, [bytes([a << 4 | b, c << 4 | d]) for a, b, c, d in IDS.tolist()])
    for name in ("grey", "palette", "sixteen", "four"):
        ids = read_mask(tmp_path / f"{name}.png")
        assert ids.dtype == np.uint8
        np.testing.assert_array_equal(ids, IDS, name)


def test_masks_of_one_and_two_bits(tmp_path: Path) -> None:
    png(tmp_path / "one.png", 1, 0, [b"\x55"])
    png(tmp_path / "two.png", 2, 0, [b"\x1b"])
    np.testing.assert_array_equal(read_mask(tmp_path / "one.png"), [[0, 1] * 4])
    np.testing.assert_array_equal(read_mask(tmp_path / "two.png"), [[0, 1, 2, 3]])


def test_masks_that_cannot_be_ids_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(IDS).save(tmp_path / "a.jpg")
    Pillow.new("RGB", (4, 3)).save(tmp_path / "b.png")
    Pillow.new("LA", (4, 3)).save(tmp_path / "c.png")
    Pillow.fromarray(IDS.astype(np.uint16) * 100).save(tmp_path / "d.png")
    for name, words in (
        ("a.jpg", "save the mask as PNG"),
        ("b.png", "one class id per pixel"),
        ("c.png", "one class id per pixel"),
        ("d.png", "16-bit mask with ids 0..1100"),
    ):
        with pytest.raises(EdgesegError) as error:
            read_mask(tmp_path / name)
        says(error, name, words)


def test_images_become_rgb(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    alpha = np.dstack([rgb, IDS])
    Pillow.fromarray(rgb).save(tmp_path / "rgb.png")
    Pillow.fromarray(alpha).save(tmp_path / "rgba.png")
    Pillow.fromarray(IDS).save(tmp_path / "grey.png")
    palette = Pillow.fromarray(rgb).quantize(12)
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    turned = Pillow.Exif()
    turned[0x0112] = 6
    Pillow.new("RGB", (4, 3)).save(tmp_path / "turned.jpg", exif=turned)

    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([IDS] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), palette.convert("RGB"))
    assert read_image(tmp_path / "turned.jpg").shape == (3, 4, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7, 0.95])
def test_a_truncated_jpeg_is_never_half_an_image(tmp_path: Path, progressive: bool, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    path = tmp_path / "a.jpg"
    Pillow.fromarray(noise).save(path, quality=90, progressive=progressive)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(EdgesegError) as error:
        read_image(path)
    says(error, str(path), "replace the file")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    Pillow.fromarray(np.tile(IDS, (20, 20))).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    (tmp_path / "text.png").write_text("not a picture")
    Pillow.fromarray(IDS.astype(np.uint16)).save(tmp_path / "deep.png")
    for read, name in ((read_mask, "cut.png"), (read_mask, "text.png"), (read_image, "text.png"), (read_image, "none")):
        with pytest.raises(EdgesegError) as error:
            read(tmp_path / name)
        says(error, str(tmp_path / name))
    with pytest.raises(EdgesegError) as error:
        read_image(tmp_path / "deep.png")
    says(error, "8 bits per channel")


def test_files_are_paired_by_name(tmp_path: Path) -> None:
    for name in ("i/b.jpg", "i/a.PNG", "i/notes.txt", "i/.hidden.png", "m/a.png", "m/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [(pair.name, pair.image.name, pair.labels.name) for pair in pair_up(tmp_path / "i", tmp_path / "m")] == [
        ("a", "a.PNG", "a.png"),
        ("b", "b.jpg", "b.png"),
    ]


def test_lone_and_double_files_are_refused(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    with pytest.raises(EdgesegError) as error:
        pair_up(images, masks)
    says(error, f"no images in {images}")

    for name in "abcde":
        (images / f"{name}.jpg").touch()
    with pytest.raises(EdgesegError) as error:
        pair_up(images, masks)
    says(error, f"no mask in {masks} for a.jpg, b.jpg, c.jpg and 2 more")

    for name in "abcdef":
        (masks / f"{name}.png").touch()
    with pytest.raises(EdgesegError) as error:
        pair_up(images, masks)
    says(error, f"no image in {images} for f.png")

    (images / "f.jpg").touch()
    (images / "f.png").touch()
    with pytest.raises(EdgesegError) as error:
        pair_up(images, masks)
    says(error, "share one name")

    with pytest.raises(EdgesegError) as error:
        pair_up(tmp_path / "none", masks)
    says(error, "cannot list", "No such file")


def test_hold_out_takes_the_end_of_each_sequence() -> None:
    pairs = [Pair(f"{name}_{n:02d}", Path(), Path()) for name in "AB" for n in range(20)]
    fit, held = hold_out(pairs, lambda pair: pair.name[0], gap=3, followed={"A"})
    assert [pair.name for pair in held] == ["A_15", "A_16", "B_18", "B_19"]
    assert [pair.name for pair in fit] == [f"A_{n:02d}" for n in range(12)] + [f"B_{n:02d}" for n in range(15)]
    with pytest.raises(EdgesegError, match="too few"):
        hold_out(pairs[:1], lambda pair: pair.name[0])


def broken(camvid: Path) -> Data:
    """A CamVid with one of every problem."""
    train, test = camvid / "train", camvid / "test"
    (train / "images" / "A_000.jpg").write_bytes((train / "images" / "A_000.jpg").read_bytes()[:300])
    ids = np.zeros((12, 16), np.uint8)
    ids[0, :3] = 12, 12, 40
    Pillow.fromarray(ids).save(train / "labels" / "A_000.png")
    Pillow.fromarray(ids[:6] * 0).save(train / "labels" / "A_001.png")
    (test / "labels" / "A_031.png").unlink()
    return load_data(f"camvid:{camvid}")


def test_check_finds_every_problem_once(camvid: Path) -> None:
    data = broken(camvid)
    read: list[int] = []
    lines = check(data, ["train", "trainval", "val", "test", "train"], read.append)
    assert sum(read) == len(data.split("train")) + len(data.split("trainval")) + len(data.split("val"))
    found = [
        r"cannot read .*train/images/A_000\.jpg: .*[Tt]runcated.*",
        r".*train/labels/A_000\.png: label ids out of range: 12 \(2 px\), 40 \(1 px\); this data has 0\.\.11",
        r".*A_001\.jpg is 12x16 but its mask .*A_001\.png is 6x16.*",
        r"no mask in .*test/labels for A_031\.jpg.*",
    ]
    assert len(lines) == len(found)
    assert all(re.fullmatch(*both) for both in zip(found, lines, strict=True)), lines


def test_reading_names_what_the_check_would(camvid: Path) -> None:
    split = broken(camvid).split("train")
    for index, words in ((0, "A_000.jpg"), (1, "same size")):
        with pytest.raises(EdgesegError) as error:
            split[index]
        says(error, words)


def test_require_shows_ten_problems(camvid: Path) -> None:
    data = load_data(f"camvid:{camvid}")
    require(data, ["train", "test"])
    for path in sorted((camvid / "train" / "images").iterdir())[:12]:
        path.write_bytes(b"")
    with pytest.raises(EdgesegError) as error:
        require(data, ["train"])
    first, *rest = str(error.value).splitlines()
    assert first.endswith("12 problems to repair before training:")
    assert len(rest) == 11
    assert rest[-1].strip() == "and 2 more"


def test_a_wrong_split_is_answered_with_near_ones(camvid: Path) -> None:
    with pytest.raises(EdgesegError, match="did you mean train"):
        load_data(f"camvid:{camvid}").split("trian")

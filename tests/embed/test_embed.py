"""What a teacher makes of every image: written, stopped, shared out, checked, and learned from."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeseg as es
from edgeseg.cli import main
from edgeseg.data import Data, load_data
from edgeseg.embed import Embedded, Job, problems, work
from edgeseg.embed.engines import How, place, ray
from edgeseg.embed.work import batches
from edgeseg.errors import EdgesegError
from edgeseg.files import aside, clear_parts, held
from edgeseg.pictures import save_picture
from edgeseg.runs import load_run, read_card, save
from edgeseg.tars import members, split_key, writing
from edgeseg.train.loop import Trainer
from edgeseg.train.precomputed import PrecomputedLogits
from edgeseg.train.recipe import read_recipe
from edgeseg.train.teacher import Teacher
from edgeseg.train.teaching import Teaching
from edgeseg.train.teaching.align import Align
from tests.conftest import TINY


@pytest.fixture(scope="module")
def shards(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that `TINY` is learned from, as the tiny run sees them, ten a shard."""
    out = tmp_path_factory.mktemp("embedded") / "shards"
    assert work(Job(str(tiny_run), TINY, None, out, per_shard=10)) == 3
    return out


def job(tiny_run: Path, out: Path, **others: Any) -> Job:
    return Job(str(tiny_run), TINY, None, out, per_shard=10, **others)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_has_the_teacher_s_logits(shards: Path, tiny_run: Path, tiny_data: Data) -> None:
    embedded, split = Embedded(shards), tiny_data.split("train")
    assert [name for name, _, _ in members(shards / "00002.tar")][:2] == ["train-00020.npy", "train-00020.json"]
    student: Any = load_run(tiny_run)
    for name, where in zip(split.names, embedded.places(split.names), strict=True):
        image = torch.from_numpy(split.image(split.names.index(name))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            wanted = student.low_logits(student.normalise(image)).numpy()[0]
        look = embedded.look(where)
        assert look.array.dtype == np.float16
        np.testing.assert_allclose(look.array, wanted, rtol=2e-3, atol=2e-3)  # ten bits, and the order of float32 sums
        assert look.image == look.seen == (64, 96)


def test_images_of_any_size_are_padded_and_batched(tiny_run: Path, tmp_path: Path, tiny_data: Data) -> None:
    image, labels = tiny_data.split("train")[0]
    for number, size in enumerate([(64, 96), (64, 96), (50, 90), (64, 96)]):
        for split in ("train", "val"):
            for kind, pixels in (("images", image), ("masks", labels)):
                save_picture(tmp_path / split / kind / f"a.{number}.png", pixels[: size[0], : size[1]])
    one = Job(str(tiny_run), f"folder:{tmp_path}", "train", tmp_path / "out", batch=3)
    work(one)
    look = Embedded(one.out).look(Embedded(one.out).places(["a.2"])[0])  # a dot in the name is no end of the key
    assert (look.image, look.seen, look.array.shape) == ((50, 90), (56, 96), (10, 7, 12))
    assert [len(some) for some in batches(map(one.split.image, range(4)), 3)] == [2, 1, 1]
    assert problems(one) == []


def test_a_killed_embedding_ends_as_one_that_was_not(tiny_run: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["embed", "--teacher", str(tiny_run), "--data", TINY, "--per-shard", "2", "--threads", "1", "--out"]
    with subprocess.Popen([sys.executable, "-m", "edgeseg", *words, str(killed)], stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (len(list(killed.glob("*.tar"))) >= 3 and list(killed.glob(".*.part"))):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    made = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.tar")}
    assert 3 <= len(made) < 12
    assert main([*words, str(killed)]) == 0
    assert main([*words, str(whole)]) == 0
    assert bytes_in(killed) == bytes_in(whole)
    assert len(bytes_in(whole)) == 13
    assert all((killed / name).stat().st_mtime_ns == before for name, before in made.items())  # nothing was made twice


def test_processes_share_the_shards_and_make_the_same(shards: Path, tiny_run: Path, tmp_path: Path) -> None:
    made = [work(job(tiny_run, tmp_path / "two"), rank, world=2) for rank in (1, 0)]
    assert made == [1, 2]
    assert bytes_in(tmp_path / "two") == bytes_in(shards)
    assert work(job(tiny_run, tmp_path / "two")) == 0


def test_a_place_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert place() == (3, 4)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(EdgesegError, match="no place among processes"):
        place()


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the cluster extra: pip install 'edgeseg[cluster]'"
)
@pytest.mark.filterwarnings("ignore")  # of ray itself
def test_ray_makes_the_same(shards: Path, tiny_run: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    assert ray(job(tiny_run, tmp_path / "ray"), How(processes=2), seen.append) == 3
    assert sum(seen) == 24
    assert bytes_in(tmp_path / "ray") == bytes_in(shards)
    with pytest.raises(EdgesegError, match="was begun with another split"):
        ray(replace(job(tiny_run, tmp_path / "ray"), split_name="val"), How(), seen.append)


def rewritten(file: Path, change: Any) -> None:
    """The tar file with its members changed; `change` takes and gives name -> bytes."""
    kept = {name: file.read_bytes()[first : first + size] for name, first, size in members(file)}
    with writing(file) as add:
        for name, stored in change(kept).items():
            add(name, stored)


def test_check_names_what_is_not_whole(tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    this = job(tiny_run, tmp_path / "out")
    words = ["embed", "--teacher", str(tiny_run), "--data", TINY, "--per-shard", "10", "--out", str(this.out)]
    assert main([*words, "--check"]) == 1
    assert "embeddings.json does not exist" in capfd.readouterr().err
    work(this)
    assert main([*words, "--check", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "out": str(this.out), "images": 24, "shards": 3, "made": 0, "checked": True
    }  # fmt: skip
    first, second, third = (this.out / f"0000{n}.tar" for n in range(3))
    first.write_bytes(first.read_bytes()[:30_000])
    rewritten(
        second,
        lambda kept: {name: stored for name, stored in kept.items() if "00013.n" not in name and "00017.j" not in name},
    )
    rewritten(
        second,
        lambda kept: {**kept, "stray.npy": b"", "train-00011.npy": kept["train-00012.npy"], "train-00014.json": b"{"},
    )
    third.unlink()
    lines = problems(this)
    assert f"{first} is cut off" in lines[0]
    assert any("lacks train-00009.npy and train-00009.json" in line for line in lines)
    for text in ("lacks train-00013.npy", "lacks train-00017.json", "train-00011.npy is not what was written"):
        assert any(text in line for line in lines), text
    assert any("train-00014.npy is not what was written" in line for line in lines)
    assert f"{second} has stray.npy, which is not in the data" in lines
    assert lines[-1] == f"{third} is missing: train-00020 to train-00023"
    assert main([*words, "--check"]) == 1
    assert "remove the tar files named and embed again" in capfd.readouterr().err
    for file in (first, second):
        file.unlink()
    assert work(this) == 3
    assert problems(this) == []


def test_a_damaged_shard_is_one_line(shards: Path, tmp_path: Path) -> None:
    for name in ("embeddings.json", "00000.tar", "00001.tar", "00002.tar"):
        (tmp_path / name).write_bytes((shards / name).read_bytes())
    wrong = {"train-00003.npy": b"x", "train-00004.json": b"[]"}
    rewritten(tmp_path / "00000.tar", lambda kept: {name: wrong.get(name, stored) for name, stored in kept.items()})
    embedded = Embedded(tmp_path)
    for name in ("train-00003", "train-00004"):
        with pytest.raises(EdgesegError, match=r"00000\.tar is damaged at byte .* see edgeseg embed --check"):
            embedded.look(embedded.places([name])[0])
    manifest = tmp_path / "embeddings.json"
    manifest.write_text(manifest.read_text().replace("00001.tar", "../x.tar"))
    with pytest.raises(EdgesegError, match="leaves its folder"):
        Embedded(tmp_path)


def test_another_job_in_the_same_folder_is_refused(shards: Path, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="begun with another split"):
        work(replace(job(tiny_run, shards), split_name="val"))
    with pytest.raises(EdgesegError, match="begun with another shards"):
        work(replace(job(tiny_run, shards), per_shard=7))
    other: Any = es.create("ddrnet23_slim", classes=10)
    save(other, tmp_path / "other")
    with pytest.raises(EdgesegError, match="begun with another sha256"):
        work(replace(job(tmp_path / "other", shards)))


def test_another_way_of_making_the_same_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    """It would change last bits, and a stopped job would not end as one that was not."""
    this = job(tiny_run, tmp_path, threads=1)
    this.begin()
    with pytest.raises(
        EdgesegError, match=r"begun with another batch \(1, now 4\); go on with --batch as it was, or choose"
    ):
        work(replace(this, batch=4))
    with pytest.raises(EdgesegError, match=r"another threads \(1, now None\); go on with --threads as it was"):
        work(replace(this, threads=None))
    with pytest.raises(EdgesegError, match="batch must be at least 1, got 0"):
        replace(this, batch=0)
    replace(this, batch=4, threads=3).compare()  # reading makes nothing
    manifest = tmp_path / "embeddings.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: document[key] for key in document if key not in ("batch", "threads")}))
    replace(this, batch=4).begin()  # written when neither was


def test_what_a_process_is_writing_is_left_alone(tiny_run: Path, tmp_path: Path) -> None:
    """Another one at the same shard, alive and dead."""
    code = (
        "import sys, time; from pathlib import Path; from edgeseg.files import aside, held\n"
        "with aside(Path(sys.argv[1])) as part, held(part):\n"
        "    part.write_bytes(b'x'); print(part, flush=True); time.sleep(100)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "00000.tar")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        part = Path(process.stdout.readline().strip())
        assert work(job(tiny_run, tmp_path)) == 3
        assert part.read_bytes() == b"x"
        process.kill()
    (tmp_path / "00000.tar").unlink()
    assert work(job(tiny_run, tmp_path)) == 1
    assert not list(tmp_path.glob(".*.part"))


def test_what_is_cleared_before_it_is_held_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is cleared in the moment between its making and its holding."""
    import fcntl

    plain, file = fcntl.flock, tmp_path / "a.tar"

    def late(handle: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", plain)
        clear_parts(file)
        plain(handle, how)

    with aside(file) as part:
        monkeypatch.setattr(fcntl, "flock", late)
        with held(part):
            clear_parts(file)
            part.write_bytes(b"x")
    assert file.read_bytes() == b"x"


def test_numbers_too_large_for_float16_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    student: Any = load_run(tiny_run)
    with torch.no_grad():
        student.final_layer.conv2.bias += 1e5
    save(student, tmp_path / "loud")
    with pytest.raises(EdgesegError, match="float16 ends at 65504"):
        work(job(tmp_path / "loud", tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["embeddings.json"]  # no part of a shard is left


def photo(pixels: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, kind)
    return stored.getvalue()


@pytest.mark.parametrize("labels", ["png", "json", ""])
def test_tar_files_of_photos_keep_their_names_and_keys(
    labels: str, tiny_run: Path, tmp_path: Path, tiny_data: Data
) -> None:
    split = tiny_data.split("train")
    for number in range(3):
        with writing(tmp_path / f"sa_00000{number}.tar") as add:
            for index in range(number * 5, number * 5 + 5):
                image, ids = split[index]
                add(f"./sa_{index}.jpg", photo(image, "JPEG"))
                mask = {"size": [64, 96], "counts": [0, 64, 64 * 95]}
                stored = (
                    photo(ids, "PNG")
                    if labels == "png"
                    else json.dumps({"annotations": [{"segmentation": mask}]}).encode()
                )
                if labels:
                    add(f"./sa_{index}.{labels}", stored)
    if labels == "png":
        with pytest.raises(EdgesegError, match=r"classes\.json is not there"):
            load_data(f"shards:{tmp_path}")
        names = [{"id": id, "name": name} for id, name in enumerate(tiny_data.class_names)]
        (tmp_path / "classes.json").write_text(json.dumps({"classes": names}))
    data = load_data(f"shards:{tmp_path}")
    assert data.task == ("promptable" if labels == "json" else "semantic")
    seen = data.split("all")[7][1]
    assert seen.shape == (64, 96)
    if labels == "png":
        np.testing.assert_array_equal(seen, split[7][1])
    else:
        assert set(np.unique(seen[:, 1:])) == ({0} if labels else {255})
        assert set(np.unique(seen[:, 0])) == ({1} if labels else {255})
    one = Job(str(tiny_run), f"shards:{tmp_path}", "all", tmp_path / "out")
    work(one)
    for number in range(3):
        made, given = (
            list(dict.fromkeys(split_key(member)[0] for member, _, _ in members(folder / f"sa_00000{number}.tar")))
            for folder in (one.out, tmp_path)
        )
        assert made == given == [f"sa_{index}" for index in range(number * 5, number * 5 + 5)]
    file = tmp_path / "sa_000001.tar"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(EdgesegError, match=r"sa_000001\.tar is cut off"):
        load_data(f"shards:{tmp_path}").split("all")


def test_splits_of_tar_files_are_their_names(tmp_path: Path) -> None:
    def tar(name: str) -> None:
        with writing(tmp_path / name) as add:
            for index in range(12):
                add(f"{name[:-4]}/{index}.jpg", photo(np.full((8, 8, 3), index, np.uint8), "JPEG"))

    with pytest.raises(EdgesegError, match=r"no \*\.tar there"):
        load_data(f"shards:{tmp_path}")
    tar("train-0.tar")
    data = load_data(f"shards:{tmp_path}")
    assert {name: len(data.split(name)) for name in data.splits} == {
        "train": 11,
        "all": 12,
        "test": 1,
        "fit": 10,
        "held": 1,
    }
    tar("val-0.tar")
    data = load_data(f"shards:{tmp_path}")
    assert (data.fit, data.select, data.test) == ("fit", "held", "val")
    tar("test-0.tar")
    data = load_data(f"shards:{tmp_path}")
    assert (data.fit, data.select, data.test) == ("train", "val", "test")
    tar("x.tar")
    with pytest.raises(EdgesegError, match=r"which split is x\.tar of"):
        load_data(f"shards:{tmp_path}")


@pytest.fixture(scope="module")
def teaching(shards: Path) -> Teaching:
    return Teaching(str(shards), Embedded(shards).manifest.sha256)


def test_the_whole_image_is_taught_as_by_the_teacher_itself(
    teaching: Teaching, tiny_run: Path, tiny_data: Data
) -> None:
    split = tiny_data.split("train")
    images = torch.from_numpy(np.stack([split.image(n) for n in (3, 17)])).permute(0, 3, 1, 2)
    views = torch.tensor([[n, 64, 96, 1, 0, 1, 0] for n in (3, 17)], dtype=torch.float64)
    live = Teacher(Teaching(str(tiny_run), read_card(tiny_run).sha256), tiny_data.class_names)
    stored = PrecomputedLogits(teaching, tiny_data.class_names, split)
    for size in ((8, 12), (16, 24)):
        wanted = live.logits(images, size)
        assert torch.allclose(
            stored.logits(images, size, views), wanted, atol=2e-3 * float(wanted.abs().max())
        )  # float16
    mirrored = torch.tensor([[n, 64, 96, -1, 96, 1, 0] for n in (3, 17)], dtype=torch.float64)
    made = stored.logits(images, (8, 12), mirrored)
    assert torch.allclose(made, stored.logits(images, (8, 12), views).flip(3), atol=1e-5)  # sums in float32
    names = list(tiny_data.class_names)
    both = PrecomputedLogits(replace(teaching, classes={names[1]: names[0]}), [names[0], *names[2:]], split)
    assert both.logits(images, (8, 12), views).shape == (2, 9, 8, 12)
    views[0, 1] = 63
    with pytest.raises(EdgesegError, match="train-00003 is 63x96, but was 64x96 when the teacher saw it"):
        stored.logits(images, (8, 12), views)


def taught(data: Data, out: Path, teaching: Teaching, *changes: str) -> Trainer:
    recipe = read_recipe(None, ["batch=4", "workers=0", *changes])
    return Trainer("lraspp_mobilenet_v3_small", data, out, replace(recipe, teaching=teaching))


@pytest.mark.parametrize("crop", [(64, 96), (40, 56), (96, 128)])
def test_logits_move_as_the_crop_does(
    crop: tuple[int, int], teaching: Teaching, tiny_data: Data, tmp_path: Path
) -> None:
    """A teacher whose logits are the place that they are at, asked for views of an image whose pixels are theirs."""
    trainer = taught(
        tiny_data, tmp_path, teaching, f"size=[{crop[0]}, {crop[1]}]", "augment.colour=0", "augment.blur=0"
    )
    split = tiny_data.split("train")
    rows, columns = np.mgrid[0:64, 0:96].astype(np.float16)
    with writing(tmp_path / "00000.tar") as add:
        for name in split.names:
            stored = io.BytesIO()
            np.save(stored, np.stack([2 * columns + 1, 2 * rows + 1, *[np.zeros_like(rows)] * 8]))
            add(f"{name}.npy", stored.getvalue())
            add(f"{name}.json", json.dumps({"image": [64, 96], "seen": [64, 96], "sha256": ""}).encode())
    assert isinstance(trainer.task.teacher, PrecomputedLogits)  # type: ignore[attr-defined]
    stored_logits: PrecomputedLogits = trainer.task.teacher  # type: ignore[attr-defined]
    stored_logits.embedded = Embedded(Path(teaching.teacher))
    stored_logits.embedded._files = [tmp_path / "00000.tar"] * 3
    stored_logits.places = stored_logits.embedded.places(split.names)
    maker: Any = trainer.batches._loader.dataset
    image = np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)
    seen = 0
    for number in range(24):
        view, labels, where = maker.view(image, np.zeros((64, 96), np.uint8), number)
        views = torch.tensor([[number, 64, 96, *where]], dtype=torch.float64)
        made = stored_logits.logits(torch.zeros(1, 3, *crop), crop, views)[0, :2].permute(1, 2, 0).numpy() / 2
        # where the view shows the image, and not its rim, where resizing has half a pixel only
        inside = (labels == 0) & (made > 2).all(2) & (made < (94, 62)).all(2)
        # half a pixel of rounding to bytes and up to half one of resizing to whole pixels
        assert np.abs(made - view[..., :2] - 0.5)[inside].max(initial=0) < 0.76
        seen += int(inside.sum())
    assert seen > 24 * 500


def test_a_student_learns_from_shards_without_the_teacher(
    teaching: Teaching, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr("edgeseg.train.teacher.load_run", refuse)
    words = [
        "distill",
        "lraspp_mobilenet_v3_small",
        "--data",
        TINY,
        "--epochs",
        "1",
        "--set",
        "batch=4",
        "--set",
        "workers=1",
    ]
    assert main([*words, "--teacher", str(shards), "--out", str(tmp_path / "run"), "--loss", "cwd,kd", "--json"]) == 0
    card = json.loads(capfd.readouterr().out)
    assert card["training"]["recipe"]["teaching"]["sha256"] == teaching.sha256
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert all(np.isfinite(losses))


def test_what_shards_cannot_teach_is_said(teaching: Teaching, tiny_data: Data, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="of another teacher than the recipe says"):
        taught(tiny_data, tmp_path, replace(teaching, sha256="0" * 64))
    with pytest.raises(
        EdgesegError, match=r"has nothing of 8 of 8 images \(val-00000, .*embed the split that is learned from"
    ):
        taught(tiny_data, tmp_path, teaching, "split=val")
    with pytest.raises(EdgesegError, match="does not know moon"):
        PrecomputedLogits(teaching, ["moon"], tiny_data.split("train"))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"losses": (Align(),)}, "not maps of the teacher"),
        ({"unlabelled": TINY}, "not what it makes of images without"),
    ],
)
def test_what_only_a_teacher_at_hand_can_say(
    teaching: Teaching, tiny_data: Data, tmp_path: Path, more: dict[str, Any], what: str
) -> None:
    with pytest.raises(EdgesegError, match=what):
        taught(tiny_data, tmp_path, replace(teaching, **more))


def test_a_class_map_that_leaves_every_pixel_out_is_an_error_of_shards_too(teaching: Teaching, tiny_data: Data) -> None:
    names, split = list(tiny_data.class_names), tiny_data.split("train")
    corner = torch.tensor([[3, 64, 96, 1, 0, 1, 0]], dtype=torch.float64)
    crop = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)  # small enough to be of one class for a bad teacher
    only = PrecomputedLogits(teaching, names, split).logits(crop, (1, 1), corner).argmax(1).unique().tolist()
    known = [name for index, name in enumerate(names) if index not in only]
    left_out = PrecomputedLogits(teaching, known, split)
    with pytest.raises(EdgesegError, match=f"every pixel of a batch is {names[only[0]]} to the teacher, which the"):
        left_out.logits(crop, (1, 1), corner)


def test_a_promptable_teacher_s_map(tmp_path: Path, tiny_data: Data) -> None:
    asked: Any = es.create("rwkv_sam_tiny")
    save(asked, tmp_path / "run", size=(64, 64))
    one = Job(str(tmp_path / "run"), "synthetic_objects:size=64x96,train=3,val=2,test=2", None, tmp_path / "out")
    work(one)
    embedded = Embedded(one.out)
    look = embedded.look(embedded.places(["train-00001"])[0])
    assert (look.array.shape, look.image, look.seen) == ((256, 4, 4), (64, 96), (96, 96))
    assert embedded.manifest.size == (64, 64)
    with pytest.raises(EdgesegError, match="made by a promptable teacher; a student that names classes"):
        PrecomputedLogits(
            Teaching(str(one.out), embedded.manifest.sha256), tiny_data.class_names, tiny_data.split("train")
        )
    save(asked, tmp_path / "sizeless")
    with pytest.raises(EdgesegError, match="does not say which size it takes; name one with --size"):
        work(Job(str(tmp_path / "sizeless"), one.data, None, tmp_path / "none"))


def test_other_images_of_the_same_names_are_not_taught(teaching: Teaching, tiny_data: Data, tmp_path: Path) -> None:
    """Names are often just numbers."""
    other = load_data(f"{TINY},seed=7")
    assert other.split("train").names == tiny_data.split("train").names
    with pytest.raises(EdgesegError, match="train-00000 is another picture than the one of that name"):
        taught(other, tmp_path, teaching)

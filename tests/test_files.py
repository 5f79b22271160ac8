"""A file is whole or not there, a full disk loses nothing, and no name leads out of its folder."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

import edgeseg as es
from edgeseg import schema
from edgeseg.errors import EXTRAS, EdgesegError, MissingTool, need
from edgeseg.files import aside, aside_folder, inside, read_json, sha256, write_json, write_text
from edgeseg.provenance import MadeBy
from edgeseg.train.checkpoint import save_state

Writer = Callable[[Path], AbstractContextManager[Path]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file.txt"
    with aside(file) as part:
        part.write_text("new")
        assert not file.exists()
        assert part.parent == file.parent  # a rename across disks would copy
    assert file.read_text() == "new"
    assert names(file.parent) == ["file.txt"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fail_after(written: object) -> None:
    raise ZeroDivisionError(written)


def test_a_failure_inside_leaves_the_old_file(tmp_path: Path) -> None:
    file = write_text(tmp_path / "file.txt", "old")
    with pytest.raises(ZeroDivisionError), aside(file) as part:
        fail_after(part.write_text("half"))
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_failure_inside_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with aside_folder(folder) as part:
        write_text(part / "file.txt", "old")
    with pytest.raises(ZeroDivisionError), aside_folder(folder) as part:
        fail_after(write_text(part / "other.txt", "half"))
    assert names(folder) == ["file.txt"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first.txt", "second.txt"):
        with aside_folder(tmp_path / "folder") as part:
            write_text(part / name, name)
    assert names(tmp_path / "folder") == ["second.txt"]
    assert names(tmp_path) == ["folder"]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_text(tmp_path / "file.txt", "old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EdgesegError, match=r"cannot write .*: No space left on device; nothing was changed"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("writer", [aside, aside_folder])
def test_a_rename_that_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Writer) -> None:
    target = tmp_path / "target"
    with writer(target) as part:
        (part / "x" if part.is_dir() else part).write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(EdgesegError, match="No space left"), writer(target) as part:
            (part / "x" if part.is_dir() else part).write_text("new")
    assert (target / "x" if target.is_dir() else target).read_text() == "old"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("writer", [aside, aside_folder])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, writer: Writer) -> None:
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(EdgesegError, match=r"cannot write .*file/result: (Not a directory|File exists)"),
        writer(tmp_path / "file" / "result"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_disk_that_really_is_full_loses_nothing(small_disk: Path) -> None:
    student = es.create("lraspp_mobilenet_v3_large", classes=2)
    writes: dict[str, Callable[[Path], object]] = {
        "text": lambda path: write_text(path, "x" * 200_000),
        "weights": lambda path: es.save(student, path.parent),
        "state": lambda path: save_state(path, {"weights": torch.zeros(100_000)}),
    }
    for name, write in writes.items():
        keep = write_text(small_disk / name, "old")
        with pytest.raises(EdgesegError, match=r"cannot write .*No space left on device"):
            write(keep)
        assert keep.read_text() == "old"
    assert names(small_disk) == sorted(writes)


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeseg.files import aside, aside_folder
writer = {"aside": aside, "aside_folder": aside_folder}[sys.argv[1]]
with writer(Path(sys.argv[2])) as part:
    (part / "x" if part.is_dir() else part).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("writer", [aside, aside_folder])
def test_a_kill_leaves_the_old_and_the_next_try_works(tmp_path: Path, writer: Writer) -> None:
    target = tmp_path / "target"
    for text in ("old", "new"):
        with writer(target) as part:
            (part / "x" if part.is_dir() else part).write_text(text)
        killed = subprocess.run([sys.executable, "-c", KILLED, writer.__name__, str(target)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert (target / "x" if target.is_dir() else target).read_text() == text


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with aside_folder(folder) as part:
        write_text(part / "x", "old")
    folder.replace(tmp_path / ".folder.old")  # as far as the killed process came
    with pytest.raises(ZeroDivisionError), aside_folder(folder):
        raise ZeroDivisionError
    assert (folder / "x").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_inside_finds_what_is_in_the_folder(tmp_path: Path) -> None:
    file = write_text(tmp_path / "part" / "file.txt", "")
    assert inside(tmp_path, "part/file.txt") == file.resolve()
    assert inside(tmp_path, "part/../part/file.txt") == file.resolve()


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "part/../../secret", "link", "link/secret"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / "secret", "")
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(EdgesegError, match="leaves its folder"):
        inside(folder, name)


def test_an_absolute_name_is_refused_even_when_it_leads_inside(tmp_path: Path) -> None:
    file = write_text(tmp_path / "file", "")
    with pytest.raises(EdgesegError, match="leaves its folder"):
        inside(tmp_path, str(file))


def test_json_knows_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"value": math.nan})
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", ["", '{"a": 1', "\udcff"])
def test_a_document_that_was_cut_off_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(EdgesegError, match=r"x\.json is not JSON .*was it cut off"):
        read_json(file)


def test_a_document_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="does not exist"):
        read_json(tmp_path / "x.json")
    with pytest.raises(EdgesegError, match=r"cannot read .*: Is a directory"):
        read_json(tmp_path)


def test_a_hash_is_of_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    assert sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_dataclass_comes_back_from_its_file(tmp_path: Path) -> None:
    made = MadeBy("1.2.3", None, dirty=False)
    assert schema.read(MadeBy, schema.write(tmp_path / "x.json", made)) == made


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"version": "1", "commit": None, "dirty": None, "extra": 1}, "extra is unknown here; got 1"),
        ({"version": "1", "commit": None}, "dirty is missing; got {"),
        ({"version": "1", "commit": [], "dirty": None}, "commit should be .*, got \\[\\]"),
        ([], "the document should be "),
    ],
)
def test_a_document_that_does_not_fit_names_the_key(tmp_path: Path, document: object, said: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document))
    with pytest.raises(EdgesegError, match=f"x.json: {said}"):
        schema.read(MadeBy, file)


def test_a_missing_extra_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, extra in EXTRAS.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingTool, match=f"{module} is not installed; pip install 'edgeseg.{extra}.'") as caught:
            need(module)
        assert caught.value.exit_code == 5


def test_every_module_asked_for_has_its_extra() -> None:
    top = Path(es.__file__).resolve().parent.parent
    folders = ("edgeseg", "export", "quantize", "runtimes", "kernels")
    files = {file for name in folders for file in (top / name).rglob("*.py")}
    sources = [file.read_text(encoding="utf-8") for file in files if file.name != "agent.py"]  # no extras on a device
    asked = {found for text in sources for found in re.findall(r"(?<![\w.])need\(\"(\w+)", text)}
    assert "onnxscript" in asked
    assert asked <= {*EXTRAS, "torch"}  # torch always comes along

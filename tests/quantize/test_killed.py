"""A search that is killed goes on where it was: what its journal has is not made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.quantize import networks

TOP = Path(__file__).parents[2]


def start(run: Path, out: Path) -> subprocess.Popen[str]:
    # for TensorRT, which is not here: how fast anything is, is not what this is about
    words = [
        "--to",
        "tensorrt",
        "--precision",
        "w8a32",
        "--calib",
        TINY,
        "--images",
        "6",
        "--max-drop",
        "100",
        "--json",
    ]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edgeseg",
            "--trust",
            networks.__name__,
            "quantize",
            str(run),
            *words,
            "--out",
            str(out),
        ],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def entries(journal: Path) -> list[str]:
    """The folders of the trials in a journal."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [json.loads(line)["trial"]["folder"] for line in lines]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder -> its number on the disk and when it was written."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (at.st_ino, at.st_mtime_ns) for name, at in found.items()}


@pytest.mark.wide
def test_a_killed_search_goes_on(taught_run: Path, tmp_path: Path) -> None:
    aside = tmp_path / ".search-tensorrt-w8a32"
    journal = aside / "trials.jsonl"
    first = start(taught_run, tmp_path)
    while len(entries(journal)) < 2 and first.poll() is None:
        time.sleep(0.02)
    first.kill()
    said = first.communicate()[1]
    assert first.returncode == -signal.SIGKILL, said
    assert not (tmp_path / "tensorrt-w8a32").exists()
    made = entries(journal)
    assert [name.split("-")[0] for name in made] == ["fp32", "fp16"]
    before = {name: files(aside / name) for name in made}
    assert all("manifest.json" in found for found in before.values())

    second = start(taught_run, tmp_path)
    answer, said = second.communicate()
    assert second.returncode == 0, said
    assert {name: files(aside / name) for name in made} == before
    found = json.loads(answer)
    assert [trial["folder"] for trial in found["trials"][:2]] == made
    assert [trial["precision"] for trial in found["trials"]] == ["fp32", "fp16", "w8a32"]
    assert not any(trial["failed"] for trial in found["trials"])
    chosen = found["trials"][found["chosen"]]
    manifest = json.loads((tmp_path / "tensorrt-w8a32" / "manifest.json").read_text())
    assert manifest["precision"]["asked"] == chosen["precision"]
    assert entries(journal) == [trial["folder"] for trial in found["trials"]]

"""Devices that are processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeseg.runtimes import agent
from edgeseg.runtimes.devices import DEVICES
from tests.runtimes.here import Here, here, until


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Here]:
    with closing(here(tmp_path)) as made:
        yield made


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of a device that `measure` can open."""
    monkeypatch.setitem(DEVICES._entries, "here", lambda address, entry: here(tmp_path))
    return "here://"


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Have devices run an agent in which some words are others."""

    def change(words: str, others: str) -> None:
        source = Path(agent.__file__).read_text(encoding="utf-8")
        assert words in source
        (tmp_path / "agent.py").write_text(source.replace(words, others), encoding="utf-8")
        monkeypatch.setattr(agent, "__file__", str(tmp_path / "agent.py"))

    return change


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A group of processes that may have 400 MB."""
    group = Path(f"/sys/fs/cgroup/memory/edgeseg-test-{os.getpid()}")
    try:
        group.mkdir()
        for name in ("limit_in_bytes", "memsw.limit_in_bytes"):
            if (group / f"memory.{name}").exists():
                (group / f"memory.{name}").write_text(str(400 << 20))
    except OSError:
        pytest.skip("needs the right to limit the memory of processes (root, and cgroup v1)")
    yield group
    assert until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()

"""A board that hangs is switched off and on, and is back when it says that it was started anew."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices import Entry, Facts, book, open_device
from edgeseg.runtimes.devices import recover as recovering
from edgeseg.runtimes.devices.recover import recover
from edgeseg.runtimes.farm.sweep import recovered


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setattr(recovering, "POLL_S", 0.01)


def switch(code: str) -> None:
    """A device whose switch is a line of Python."""
    book.add("pi", Entry("local", recover=(sys.executable, "-c", code)))


def answers(monkeypatch: pytest.MonkeyPatch, *boots: str | None) -> None:
    """What the device says when it is asked, one after the other; null: nothing."""
    facts: Facts = open_device("local").probe()
    said = iter(boots)

    def ask(name: str) -> tuple[Facts | None, str]:
        boot = next(said)
        return (None, "no route to host") if boot is None else (replace(facts, boot_id=boot), "")

    monkeypatch.setattr(recovering, "_asked", ask)


def test_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch(f"open({str(tmp_path / 'switched')!r}, 'x')")
    answers(monkeypatch, None, None, None, "2")
    assert 0 < recover("pi") < 60
    assert (tmp_path / "switched").exists()


def test_one_that_still_answers_has_to_be_another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    switch("")
    answers(monkeypatch, "1", "1", None, "2")
    recover("pi")
    switch("")
    answers(monkeypatch, *["1"] * 999)
    with pytest.raises(MissingTool, match="is not back after 0 s: it answers as if it had not been switched off"):
        recover("pi", 0.05)


def test_one_that_does_not_come_back_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    switch("")
    answers(monkeypatch, *[None] * 999)
    with pytest.raises(MissingTool, match="is not back after 0 s: no route to host"):
        recover("pi", 0.05)


@pytest.mark.parametrize(
    ("words", "error", "line"),
    [
        ((sys.executable, "-c", "raise SystemExit('no such hub')"), EdgesegError, "exit code 1: no such hub"),
        (("no-such-command",), MissingTool, "cannot switch pi off and on: no-such-command: No such file"),
        ((), EdgesegError, "nothing switches pi off and on; name a command"),
    ],
)
def test_a_switch_that_fails_is_one_line(words: Any, error: type[EdgesegError], line: str) -> None:
    book.add("pi", Entry("local", recover=words))
    with pytest.raises(error, match=line):
        recover("pi")


def test_by_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = f'{sys.executable} -c \'open("{tmp_path / "switched"}", "x")\''
    assert main(["devices", "add", "pi", "local", "--recover", words, "--no-probe"]) == 0
    assert book.read().devices["pi"].recover == (sys.executable, "-c", f'open("{tmp_path / "switched"}", "x")')
    assert main(["devices", "recover", "pi", "--limit", "1"]) == MissingTool.exit_code  # this machine was not restarted
    assert "answers as if it had not been switched off" in capfd.readouterr().err
    assert (tmp_path / "switched").exists()


def test_a_sweep_does_it_in_a_process_of_its_own() -> None:
    assert asyncio.run(recovered("local")) == ""  # nothing to say of one that has no switch
    switch("raise SystemExit('no such hub')")
    said = asyncio.run(recovered("pi"))
    assert said is not None and said.endswith("exit code 1: no such hub")

"""The devices file: names for addresses, and what each of them needs beyond its address."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Entry:
    """A device.

    url:        `ssh://user@host:port`; a host, port and key may as well stand under one name in ~/.ssh/config. `adb://SERIAL`.
    python:     the interpreter there that has numpy and a runtime.
    folder:     where files are kept there; by default where its kind has them: `~/.cache/edgeseg`, and the lock in /tmp, for all of its users.
    ssh_config: a file to read instead of ~/.ssh/config.
    recover:    a command of this machine that switches it off and on, word by word.
    """

    __pydantic_config__ = STRICT
    url: str
    python: str = "python3"
    folder: str | None = None
    ssh_config: str | None = None
    recover: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.folder and not self.folder.startswith(("/", "~/")):
            raise EdgesegError(
                f"the folder {self.folder!r} of a device must begin with / or ~/, for commands there begin elsewhere"
            )


@dataclass(frozen=True)
class Book:
    """Name -> device."""

    __pydantic_config__ = STRICT
    devices: dict[str, Entry] = field(default_factory=dict)


def book_path() -> Path:
    """`edgeseg/devices.json` among the user's settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgeseg" / "devices.json"


def read() -> Book:
    """The devices file; an empty one where there is none."""
    path = book_path()
    return schema.read(Book, path) if path.exists() else Book()


def add(name: str, entry: Entry) -> Path:
    """Give a device a name, or another entry to its name."""
    return schema.write(book_path(), Book({**read().devices, name: entry}))

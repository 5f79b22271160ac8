"""Tar files of samples as WebDataset has them: `KEY.jpg`, `KEY.json`, ... beside each other; read in place, written always alike."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from edgeseg.errors import EdgesegError

Add: TypeAlias = Callable[[str, bytes], None]
"""Adds a file of that name."""

END = 2 * tarfile.BLOCKSIZE
"""Bytes of zeros that every whole tar file ends with."""


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of every file in a tar; only headers are read, and nothing is unpacked.

    Raises:
        EdgesegError: the file is not there, compressed, cut off, or no tar file.
    """
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isfile():
                    yield member.name.removeprefix("./"), member.offset_data, member.size
    except FileNotFoundError:
        raise EdgesegError(f"{path} does not exist") from None
    except (tarfile.TarError, OSError) as error:
        raise EdgesegError(f"{path} is cut off or is no plain tar file ({error})") from error
    if path.stat().st_size < end + END:
        raise EdgesegError(f"{path} is cut off: its end is not there")


def read(path: Path, first: int, size: int) -> bytes:
    """The bytes of a member, by its place."""
    try:
        with path.open("rb") as file:
            file.seek(first)
            stored = file.read(size)
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror or error}") from error
    if len(stored) != size:
        raise EdgesegError(f"{path} is cut off: {size} bytes are not there any more")
    return stored


def split_key(name: str) -> tuple[str, str]:
    """Key and ending of a member: `a/b` and `seg.png` of `a/b.seg.png`."""
    folder, slash, last = name.rpartition("/")
    key, _, ending = last.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def key_of(name: str) -> str:
    """The key of a sample called `name`: a dot would end it."""
    return name.replace("%", "%25").replace(".", "%2E")


@contextmanager
def writing(path: Path) -> Iterator[Add]:
    """A tar file to add to; the same members make the same bytes, whoever writes them and when."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, stored: bytes) -> None:
            member = tarfile.TarInfo(name)  # without owner or time
            member.size = len(stored)
            tar.addfile(member, io.BytesIO(stored))
            tar.members = []  # type: ignore[attr-defined]

        yield add

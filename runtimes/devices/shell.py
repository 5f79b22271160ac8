"""What can be done on a device that has a POSIX shell and nothing else: commands whose end is proven, files by their SHA-256."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.launch import Died

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Device
    from edgeseg.runtimes.devices.remote import Remote

BEGUN, ENDED = "edgeseg-begun", "edgeseg-ended"

RUN = f"""echo {BEGUN}; "$@"; printf '\\n{ENDED} %d\\n' $?"""
"""The exit code is said, not trusted: that of `adb shell` is 0, and that of ssh 255, when the other end goes away."""

WORDS_S = 60.0
"""For a command that only says something."""

AT = """at() { case $1 in "~/"*) echo "$HOME/${1#"~/"}";; *) echo "$1";; esac; }
"""
"""For the beginning of a script: a path there, which may be one of its user's."""

WHOLE = f"""{AT}folder=$(at "$1"); shift
for sha; do
  if [ -f "$folder/files/$sha" ] && [ "$(sha256sum <"$folder/files/$sha")" = "$sha  -" ]; then echo "$sha"; fi
done"""
"""Which files are there whole."""

STORE = f"""{AT}folder=$(at "$1"); shift
mkdir -p "$folder/files" && cd "$folder/files" || exit
cat >"$1.$$.new" && if [ "$(sha256sum <"$1.$$.new")" = "$1  -" ]; then mv "$1.$$.new" "$1"; else
  echo "what came has another SHA-256" >&2; false; fi && exit
code=$?; rm -f "$1.$$.new"; exit $code"""
"""Keep what comes on stdin, if it arrives as what its name says. Parts end in .new: the agent clears its own, which end in .part."""

PROVEN = f"""{AT}file=$(at "$1")
cat "$file" && echo && sha256sum <"$file" """
"""A file, and what it should be."""


@dataclass(frozen=True)
class Done:
    """A command that ended there, with its exit code, what it printed, and what it complained about."""

    code: int
    out: bytes
    errors: str

    @property
    def text(self) -> str:
        """What it printed, as text."""
        return self.out.decode("utf-8", "replace")

    @property
    def ending(self) -> str:
        """How it ended, with its last words."""
        words = [line.strip() for line in f"{self.text}\n{self.errors}".splitlines() if line.strip()]
        by = None
        with suppress(ValueError):
            by = signal.Signals(self.code - 128).name if self.code > 128 else None
        how = f"was ended by {by}" if by else f"ended with exit code {self.code}"
        return f"{how}: {words[-1] if words else 'it says nothing':.200}"


def run(
    device: Device,
    words: Sequence[str],
    given: IO[bytes] | None = None,
    limit_s: float = WORDS_S,
    what: str | None = None,
) -> Done:
    """Run a command there, with a file as its stdin; without one its stdin stays open for as long as this end lives.

    what: it does, for the errors.

    Raises:
        MissingTool: the device cannot be reached. Died: it went away meanwhile. EdgesegError: it takes longer than `limit_s`.
    """
    what = what or f"running {words[0]}"
    device.reach()
    argv = device.command(["sh", "-c", RUN, "sh", *words])
    # files, not pipes: a connection that commands share keeps pipes open
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(argv, stdin=given or subprocess.PIPE, stdout=out, stderr=errors) as process:
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise EdgesegError(f"{what} did not end on {device.address} within {limit_s:g} s") from None
            finally:
                process.kill()
        out.seek(0)
        errors.seek(0)
        said, complaints = out.read(), errors.read().decode("utf-8", "replace").strip()
    ended = re.search(rb"\n%b (\d+)\r?\n$" % ENDED.encode(), said)
    begun = re.search(rb"^%b\r?\n" % BEGUN.encode(), said, re.MULTILINE)
    if begun is None:
        raise device.explain(code, complaints or said.decode("utf-8", "replace").strip())
    if ended is None:
        raise Died(f"{device.address} went away in the middle of {what}", "lost")
    return Done(int(ended[1]), said[begun.end() : ended.start()], complaints)


def push(device: Remote, files: Mapping[str, Path]) -> None:
    """Bring files there by their SHA-256; those that are there whole stay.

    Raises:
        EdgesegError: one does not arrive as it is.
    """
    folder = device.folder
    there = run(device, ["sh", "-c", WHOLE, "sh", folder, *files], what="looking for files").text.split()
    for sha, path in files.items():
        if sha in there:
            continue
        with path.open("rb") as file:
            limit_s = WORDS_S + path.stat().st_size / 1e6
            done = run(device, ["sh", "-c", STORE, "sh", folder, sha], file, limit_s, f"storing {path.name}")
        if done.code:
            raise EdgesegError(
                f"{path.name} did not arrive whole in {folder} on {device.address}; storing it {done.ending}"
            )


def pull(device: Device, path: str) -> bytes:
    """The bytes of a file there, proven to be what they are there.

    Raises:
        EdgesegError: there is no such file, or it changes meanwhile.
    """
    done = run(device, ["sh", "-c", PROVEN, "sh", path], what=f"reading {path}")
    if done.code:
        raise EdgesegError(f"{path} cannot be read on {device.address}; reading it {done.ending}")
    data, _, said = done.out.rstrip(b"\n").rpartition(b"\n")
    if said.split()[:1] != [hashlib.sha256(data).hexdigest().encode()]:
        raise EdgesegError(f"{path} did not arrive whole from {device.address}; is it still being written?")
    return data

"""A tool run on a device, where its user has put it: under the lock, in a folder of its own, and ended when this end is gone.

Its files are brought there before the lock is taken.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import sha256
from edgeseg.runtimes.devices import shell
from edgeseg.runtimes.devices.remote import Remote, whoami
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.tools.here import fitting, result, work
from edgeseg.runtimes.tools.tool import Output, Tool, ToolResult

BUSY, ALONE = "edgeseg-busy", "edgeseg-alone"

LIMIT_S = 900.0

SEARCH = """PATH=$PATH:/data/local/tmp
"""
"""Where one puts a program on a phone, whose own folders are read-only."""

LOCK = f"""{shell.AT}{SEARCH}folder=$(at "$1") lock=$(at "$2") who=$3
mkdir -p "$folder" "${{lock%/*}}" || exit
[ -e "$lock" ] || (umask 0; : >"$lock")
exec 9<"$lock"
if ! command -v flock >/dev/null; then echo {ALONE}
elif ! flock -n 9 9<&9; then echo {BUSY}; cat "$lock"; exit; fi
"""
"""The lock is the agent's."""

GUARD = f"""{LOCK}{{ echo "$who" >"$lock"; }} 2>/dev/null  # one of another user in /tmp may not be opened to write
find "$folder" -maxdepth 1 -name 'tool*' -mmin +60 -exec rm -rf {{}} + 2>/dev/null  # of runs that were cut off
rm -rf "$folder/$4"; mkdir "$folder/$4" && cd "$folder/$4" || exit
shift 4
while [ "$1" != -- ]; do
  mkdir -p "$(dirname "$1")"
  ln "$folder/files/$2" "$1" 2>/dev/null || cp "$folder/files/$2" "$1" || exit
  shift 2
done
shift
exec 3<&0
"$@" 3<&- 9<&9 </dev/null & tool=$!
{{ while read -r _; do :; done <&3; kill -9 $tool; }} 9<&- >/dev/null 2>&1 & watch=$!
wait $tool; code=$?
kill $watch
exit $code"""
"""The tool holds the lock too, so that one that outlives its connection keeps others away until it ends."""


def measure_there(device: Remote, name: str, artifact: Artifact, threads: int, path: str | None = None) -> ToolResult:
    """An artifact under one of its runtime's own benchmarks, on a device that has that tool.

    path: where it is there; by default on its path, or in /data/local/tmp.

    Raises:
        MissingTool: the device, or the tool there. Died: somebody else measures there, or it went away.
        EdgesegError: what `here.measure_with` raises.
    """
    tool = fitting(name, artifact)
    command = tool.command(work(artifact, artifact.manifest.files[0].path, threads))
    version = _version(device, tool, path)
    words = [path or name, *command.argv(version)[1:]]
    files = {entry.path: entry.sha256 for entry in artifact.manifest.files} | _engines(artifact, words)
    shell.push(device, {sha: artifact.folder / entry for entry, sha in files.items()})
    place = f"tool-{secrets.token_hex(4)}"  # of its own: what it wrote is read when others may be at work already
    done = _guarded(device, files, words, place)
    try:
        if done.code:
            raise _failed(device, name, words[0], done)
        said = f"{done.text}\n{done.errors}".replace(f"{ALONE}\n", "")
        with tempfile.TemporaryDirectory() as folder:
            for written in command.writes.values():
                (Path(folder) / written).write_bytes(shell.pull(device, f"{device.folder}/{place}/{written}"))
            found = result(tool, command, Path(folder), version, 0, said)
    finally:
        with suppress(EdgesegError):  # the device is gone
            shell.run(device, ["sh", "-c", f'{shell.AT}rm -rf "$(at "$1")"', "sh", f"{device.folder}/{place}"])
    alone = [f"{device.address} has no flock, which keeps another measurement away"] if ALONE in done.text else []
    return replace(found, warnings=[*found.warnings, *alone])


def _engines(artifact: Artifact, words: Sequence[str]) -> dict[str, str]:
    """Engines that the tool loads, which an artifact has beside its files once they are built: their SHA-256.

    Raises:
        MissingTool: there is none.
    """
    named = [word.rpartition("=")[2] for word in words if word.endswith(".engine")]
    if lost := [each for each in named if not (artifact.folder / each).exists()]:
        raise MissingTool(
            f"{artifact.folder} has no {lost[0]}; build it on the device with `edgeseg build`, and bring it here"
        )
    return {each: sha256(artifact.folder / each) for each in named}


def _guarded(device: Remote, files: Mapping[str, str], words: Sequence[str], place: str = "tool") -> shell.Done:
    """The tool's own end in a folder of that name, or why it was not begun."""
    pairs = [word for pair in files.items() for word in pair]
    who = json.dumps({"who": whoami()})
    places = [device.folder, device.lock_path]
    argv = ["sh", "-c", GUARD, "sh", *places, who, place, *pairs, "--", *words]
    return _alone(device, shell.run(device, argv, limit_s=LIMIT_S, what=f"running {words[0]}"))


def see_free(device: Remote) -> None:
    """See that nobody measures there just now, before anything of it is changed.

    Raises:
        Died: somebody does.
    """
    argv = ["sh", "-c", LOCK, "sh", device.folder, device.lock_path, ""]
    _alone(device, shell.run(device, argv, what="asking who measures there"))


def _alone(device: Remote, done: shell.Done) -> shell.Done:
    """What was run under the lock, if the lock was to be had."""
    if done.text.startswith(BUSY):
        holder = done.text.partition("\n")[2]
        try:
            other = str(json.loads(holder)["who"])
        except (ValueError, KeyError, TypeError):  # about to write who it is
            other = "somebody"
        raise Died(f"{device.address} is in use by {other}; wait until that measurement is over", "busy")
    return done


def _failed(device: Remote, name: str, program: str, done: shell.Done) -> EdgesegError:
    if done.code == 127:
        return MissingTool(
            f"{program} is not on {device.address}; put {name} there, for Android with adb push {name} /data/local/tmp, or "
            "say where it is with --tool-path"
        )
    if done.code == 126:
        return MissingTool(f"{program} cannot be run on {device.address}: {done.ending}; chmod +x it there")
    return EdgesegError(f"{name} on {device.address} {done.ending}")


def _version(device: Remote, tool: Tool, path: str | None) -> str | None:
    """What the tool says of itself, where it does."""
    if not tool.stated:
        return None
    words = ["sh", "-c", f'{SEARCH}"$@"', "sh", path or tool.name, "--help"]
    done = shell.run(device, words, what=f"asking {tool.name} for its version")
    if done.code in (126, 127):
        raise _failed(device, tool.name, path or tool.name, done)
    return tool.version(Output(f"{done.text}\n{done.errors}"))

"""A tool run on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import RUNTIMES, pixels
from edgeseg.runtimes.tools.tool import TOOLS, Command, Output, Tool, ToolResult, Work

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact


def program(name: str) -> Path:
    """Where a tool is: beside this Python, where wheels put theirs, or on the path.

    Raises:
        MissingTool: in neither.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise MissingTool(f"{name} is neither beside {sys.executable} nor on the PATH; install what brings it")
    return Path(found)


def run(
    tool: Tool,
    command: Command,
    folder: Path,
    version: str | None = None,
    timeout_s: float = 600,
    path: str | None = None,
) -> ToolResult:
    """What a tool says of one run; files that it names by themselves come to lie in `folder`.

    version: of the tool, for one that needs to know before it starts, or does not print its own.
    path:    where it is, if not where `program` finds it.

    Raises:
        MissingTool: it is not here.
        EdgesegError: it fails, takes longer than `timeout_s`, or its output cannot be read.
    """
    name, *words = command.argv(version)
    done = _started([path or name, *words], folder, timeout_s)
    return result(tool, command, folder, version, done.returncode, f"{done.stdout}\n{done.stderr}")


def result(tool: Tool, command: Command, folder: Path, version: str | None, code: int, text: str) -> ToolResult:
    """What a run says that has ended, from its exit code, what it printed, and the files it left in `folder`."""
    if code:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "it says nothing")
        raise EdgesegError(f"{tool.name} ended with exit code {code}: {last.strip():.200}")
    files = {role: _text(folder / name, tool.name) for role, name in command.writes.items()}
    return tool.read(Output(text, files, version))


def measure_with(name: str, artifact: Artifact, threads: int, path: str | None = None) -> ToolResult:
    """An artifact under one of its runtime's own benchmarks, on this machine.

    path: where the tool is, if not where `program` finds it.

    Raises:
        EdgesegError: what `fitting` and `run` raise.
    """
    tool = fitting(name, artifact)
    path = path and str(Path(path).resolve())
    with tempfile.TemporaryDirectory() as folder:
        command = tool.command(work(artifact, str(artifact.model_file.resolve()), threads))
        return run(tool, command, Path(folder), _version(tool, path), path=path)


def fitting(name: str, artifact: Artifact) -> Tool:
    """A tool that runs files of the artifact's runtime.

    Raises:
        EdgesegError: it is another runtime's, or the artifact has two networks.
    """
    tool, manifest = TOOLS[name], artifact.manifest
    target = str(manifest.target.get("name"))
    if tool.runtime != target:
        own = [each for each in TOOLS if TOOLS[each].runtime == target]
        raise EdgesegError(
            f"{name} runs files of {tool.runtime}, {artifact.folder} is for {target}: {', '.join(own) or 'none'}"
        )
    if manifest.decoder is not None:
        raise EdgesegError(f"{name} measures one network; {artifact.folder} has an encoder and a decoder")
    if manifest.input.sizes is not None:
        raise EdgesegError(f"{name} measures files of one size; {artifact.folder} takes {manifest.input.sizes}")
    return tool


def work(artifact: Artifact, file: str, threads: int) -> Work:
    """What a tool is to do with an artifact, whose model is at `file` where it runs."""
    manifest = artifact.manifest
    return Work(file, threads, manifest.precision.asked, pixels.size(manifest.input))


def _version(tool: Tool, path: str | None = None) -> str | None:
    """What the tool says of itself before it starts, else the version of its runtime here, if there is one."""
    if tool.stated:
        said = _started([path or tool.name, "--help"], None, timeout_s=60)
        if version := tool.version(Output(said.stdout + said.stderr)):
            return version
    try:
        return RUNTIMES[tool.runtime].version()
    except MissingTool:
        return None


def _started(words: Sequence[str], folder: Path | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """A tool that has ended, well or not."""
    try:
        return subprocess.run(
            [str(program(words[0])), *words[1:]],
            check=False,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise EdgesegError(f"{words[0]} did not end within {timeout_s:g} s") from None
    except OSError as error:
        raise EdgesegError(f"{words[0]} cannot be started: {error.strerror or error}") from error


def _text(path: Path, who: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EdgesegError(f"{who} did not write {path.name}: {error.strerror or error}") from error

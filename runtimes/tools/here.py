"""A tool run on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.tools.tool import Command, Output, Tool, ToolResult


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


def run(tool: Tool, command: Command, folder: Path, version: str | None = None, timeout_s: float = 600) -> ToolResult:
    """What a tool says of one run; files that it names by themselves come to lie in `folder`.

    version: of the tool, for one that needs to know before it starts, or does not print its own.

    Raises:
        MissingTool: it is not here.
        EdgesegError: it fails, takes longer than `timeout_s`, or its output cannot be read.
    """
    words = command.argv(version)
    try:
        done = subprocess.run(
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
        raise EdgesegError(f"{tool.name} did not end within {timeout_s:g} s") from None
    text = f"{done.stdout}\n{done.stderr}"
    if done.returncode:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "it says nothing")
        raise EdgesegError(f"{tool.name} ended with exit code {done.returncode}: {last.strip():.200}")
    files = {role: _text(folder / name, tool.name) for role, name in command.writes.items()}
    return tool.read(Output(text, files, version))


def _text(path: Path, who: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EdgesegError(f"{who} did not write {path.name}: {error.strerror or error}") from error

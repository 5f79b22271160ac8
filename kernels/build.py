"""Native code, compiled on first use with the machine's own compiler and kept in a cache.

The wheel carries sources only. A library is kept under a name that says what it was made from: the sources, the flags, the
compiler, the processor and the version of the runtime it is for. So a newer runtime, another processor on a shared home
folder or a changed source is never met by an old library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import aside, sha256
from edgeseg.registry import Registry

SOURCES = Path(__file__).resolve().parent / "csrc"
COMMON = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wno-psabi")
INSTALL = "apt-get install g++ (Debian, Ubuntu), xcode-select --install (macOS)"


@dataclass(frozen=True)
class Flags:
    """What a library needs beyond the common flags, and the version it is bound to; asked for only when it is built."""

    arguments: tuple[str, ...] = ()
    bound_to: str = ""


@dataclass(frozen=True)
class Library:
    """One file of `csrc` that becomes a library."""

    name: str
    source: str
    flags: Callable[[], Flags] = field(default=Flags)


LIBRARIES: Registry[Library] = Registry("native library")
"""Name -> library; each runtime that has a plugin adds its own."""


@dataclass(frozen=True)
class Toolchain:
    """A compiler, and what it compiles for: `native` is this very processor."""

    command: tuple[str, ...]
    machine: str = "native"

    @property
    def tuning(self) -> tuple[str, ...]:
        """The flag that lets it use what the processor has."""
        if self.machine != "native":
            return ()
        return ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ("-march=native",)


CROSS = {
    "linux-aarch64": "aarch64-linux-gnu-g++",
    "linux-armv7": "arm-linux-gnueabihf-g++",
    "linux-x86_64": "x86_64-linux-gnu-g++",
}
"""Machine to build for -> the compiler that does, as Debian names it."""


def toolchain(machine: str = "native") -> Toolchain:
    """The compiler for a machine; `CXX` has the first word for the native one.

    Raises:
        MissingTool: there is none; the message says how to install it.
    """
    if machine != "native":
        if machine not in CROSS:
            raise EdgesegError(f"no toolchain for {machine!r}; there is {', '.join(CROSS)}")
        if shutil.which(CROSS[machine]) is None:
            package = CROSS[machine].rsplit("-", 1)[0]
            raise MissingTool(f"{CROSS[machine]} is not installed; apt-get install g++-{package}")
        return Toolchain((CROSS[machine],), machine)
    for name in (*os.environ.get("CXX", "").split()[:1], "c++", "g++", "clang++"):
        if shutil.which(name):
            return Toolchain((name,))
    raise MissingTool(f"no C++ compiler (c++, g++ or clang++); {INSTALL}")


def cache_folder() -> Path:
    """Where libraries are kept: `$XDG_CACHE_HOME/edgeseg`, else `~/.cache/edgeseg`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgeseg"


def library(name: str, machine: str = "native") -> Path:
    """The file of a library, built now unless the cache has it, whole.

    Raises:
        MissingTool: no compiler, or no runtime to build for.
        EdgesegError: the compiler failed; the message has its words and the command.
    """
    return _build(LIBRARIES[name], toolchain(machine), cache_folder())


@cache
def _build(entry: Library, tools: Toolchain, folder: Path) -> Path:
    flags = entry.flags()
    about = (*tools.tuning, *flags.arguments, flags.bound_to, tools.machine, version(tools.command), _processor(tools))
    command = [*tools.command, *COMMON, *tools.tuning, str(SOURCES / entry.source), *flags.arguments, "-lpthread"]
    return in_cache(folder, entry.name, [entry.source, *COMMON, *about], command)


def in_cache(folder: Path, name: str, about: Sequence[str], command: Sequence[str]) -> Path:
    """The library that the compiler's `command` makes (`-o FILE` is added), from the cache if it is there and whole.

    about: what it depends on besides the sources, all of which count.
    """
    digest = hashlib.sha256("\0".join(about).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    key = digest.hexdigest()[:16]
    file, stamp = folder / f"{name}-{key}.so", folder / f"{name}-{key}.sha256"
    if file.exists() and stamp.exists() and stamp.read_text(encoding="ascii").strip() == sha256(file):
        return file
    with aside(file) as part:  # of several processes that build at once, each puts a good file there
        _run([*command, "-o", str(part)])
        made = sha256(part)
    with aside(stamp) as part:
        part.write_text(made + "\n", encoding="ascii")
    return file


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MissingTool(f"cannot run {command[0]} ({error}); {INSTALL}") from error
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise EdgesegError(f"the compiler failed: {said}; the command was: {' '.join(command)}")


@cache
def version(command: tuple[str, ...]) -> str:
    """What a compiler says of itself."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


@cache
def _processor(tools: Toolchain) -> str:
    """What a native build may use: the features that Linux lists, else the name."""
    if tools.machine != "native":
        return tools.machine
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {features}"

"""An aarch64 system to emulate a board with: Debian's Python and the runtimes' wheels, in the user's cache, installed nowhere.

Programs of it run under qemu-user, which looks for every file in `root` first: the processor, its cores and the board's name
are files that are written here, because emulated programs would otherwise read those of this machine, and crash.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg import schema
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import aside_folder, read_json, sha256, write_json, write_text
from edgeseg.kernels.build import cache_folder
from edgeseg.registry import Registry
from edgeseg.runtimes.agent import DISTRIBUTIONS
from edgeseg.schema import STRICT

Say = Callable[[str], None]

QEMU = "qemu-aarch64-static"
HINT = "apt-get install qemu-user-static"

DEBS = ("python3", "libstdc++6")
"""Debian packages; what they need comes with them."""

RUNTIMES = ("onnxruntime", "litert")
"""Those whose wheels run under qemu; OpenVINO's crashes when it compiles a network."""

PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


@dataclass(frozen=True)
class Board:
    """A board as its programs see it.

    model:    of its device tree. `qemu`: the name that qemu has for its processor.
    part, variant, revision, features: of /proc/cpuinfo; features that `qemu` lacks would be illegal instructions.
    """

    model: str
    qemu: str
    part: str
    variant: str
    revision: int
    features: str
    khz: int
    cores: int = 4


BOARDS: Registry[Board] = Registry("emulated board")
"""Name -> board."""

A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
A72 = "fp asimd evtstrm crc32 cpuid"
BOARDS.add("pi5", Board("Raspberry Pi 5 Model B Rev 1.0", "cortex-a76", "0xd0b", "0x4", 1, A76, 2_400_000))
BOARDS.add("pi4", Board("Raspberry Pi 4 Model B Rev 1.5", "cortex-a72", "0xd08", "0x0", 3, A72, 1_800_000))


@dataclass(frozen=True)
class Made:
    """What a system was made of: version of its Python, and the SHA-256 of every package and wheel."""

    __pydantic_config__ = STRICT
    python: str
    debs: dict[str, str]
    wheels: dict[str, str]


@dataclass(frozen=True)
class Sysroot:
    """The system of one board below `top`, where boards share what was downloaded."""

    name: str
    board: Board
    top: Path

    @property
    def root(self) -> Path:
        """The file system."""
        return self.top / self.name / "root"

    @property
    def site(self) -> Path:
        """The wheels, unpacked, for all boards."""
        return self.top / "site"

    @property
    def made(self) -> Path:
        """The document that is there when all of it is: `Made`."""
        return self.top / self.name / "made.json"

    def clear(self) -> None:
        """Remove what was unpacked."""
        self.made.unlink(missing_ok=True)
        for folder in (self.root, self.site):
            shutil.rmtree(folder, ignore_errors=True)

    def python(self) -> Path:
        """Its interpreter."""
        found = sorted(self.root.glob("usr/bin/python3.*[0-9]"))
        if not found:
            raise MissingTool(f"there is no Python in {self.root}; edgeseg devices emulate {self.name} --fresh")
        return found[0]

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return all(path.exists() for path in (self.made, self.root, self.site))

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line of this machine that runs a program of it."""
        settings = (f"PYTHONPATH={self.site}", "PYTHONDONTWRITEBYTECODE=1")
        given = [word for setting in settings for word in ("-E", setting)]
        hidden = [word for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME") for word in ("-U", name)]
        return [QEMU, "-cpu", self.board.qemu, "-L", str(self.root), *given, *hidden, *words]


def sysroot(name: str) -> Sysroot:
    """The system of a board, by its name; it need not be there yet."""
    return Sysroot(name, BOARDS[name], cache_folder() / "emulated")


def assemble(system: Sysroot, say: Say, sources: Path | None = None) -> Made:
    """Download and unpack what is not there yet, whole; a step that was cut off is done again, one that is done is not.

    apt proves packages by the signatures of their archive, pip wheels by the hashes of the index.

    sources: a list of apt sources instead of this machine's own, where those have no arm64.

    Raises:
        MissingTool: a program that it takes is not installed. EdgesegError: what apt or pip said.
    """
    for program, hint in (
        (QEMU, HINT),
        ("apt-get", "this takes a Debian or Ubuntu"),
        ("dpkg-deb", "apt-get install dpkg"),
    ):
        if shutil.which(program) is None:
            raise MissingTool(f"{program} is not installed; {hint}")
    if importlib.util.find_spec("pip") is None:
        raise MissingTool(f"pip is not installed; {sys.executable} -m ensurepip")
    apt, wheels = system.top / "apt", system.top / "wheels"
    debs = _fetched(apt / "cache/archives", "*.deb", lambda: _packages(apt, sources, say))
    if not system.root.exists():
        say(f"unpacking {len(debs)} packages")
        with aside_folder(system.root) as folder:
            for deb in debs:
                _run(["dpkg-deb", "-x", str(apt / "cache/archives" / deb), str(folder)], "dpkg-deb")
    for path, text in fakes(system.board).items():
        write_text(system.root / path, text)
    (system.root / "sys/class/thermal").mkdir(parents=True, exist_ok=True)  # or this machine's would be read
    version = system.python().name.removeprefix("python")
    kept = _fetched(wheels, "*.whl", lambda: _wheels(wheels, version, say))
    if not system.site.exists():
        say(f"unpacking {len(kept)} wheels")
        with aside_folder(system.site) as folder:
            for wheel in kept:
                with zipfile.ZipFile(wheels / wheel) as file:
                    file.extractall(folder)
    made = Made(version, debs, kept)
    schema.write(system.made, made)
    return made


def _fetched(folder: Path, pattern: str, fetch: Callable[[], None]) -> dict[str, str]:
    """File -> SHA-256 of what is in a folder; fetched first unless all of it is what it was when that was complete."""
    complete = folder.parent / f"{folder.name}.json"
    known = read_json(complete) if complete.exists() else {}
    if known and {name: sha256(folder / name) for name in known if (folder / name).exists()} == known:
        return dict(known)
    for path in folder.glob(pattern) if known else ():  # of what is damaged nothing is kept, of what was cut off all
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    fetch()
    found = {path.name: sha256(path) for path in sorted(folder.glob(pattern))}
    write_json(complete, found)
    return found


def _packages(apt: Path, sources: Path | None, say: Say) -> None:
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()  # nothing is installed there
    say("reading the lists of arm64 packages")
    _run(apt_words(apt, sources, "update"), "apt-get")
    say(f"downloading {', '.join(DEBS)} and what they need")
    _run(apt_words(apt, sources, "install", "--download-only", "--yes", "--no-install-recommends", *DEBS), "apt-get")


def apt_words(apt: Path, sources: Path | None, *words: str) -> list[str]:
    """apt for another machine, with lists, packages and state of its own."""
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",  # the usual one may not write here; only root changes users at all
        "Acquire::Languages": "none",
        "Dir::State": apt,
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        **({"Dir::Etc::sourcelist": sources.resolve(), "Dir::Etc::sourceparts": "-"} if sources else {}),
    }
    return ["apt-get", *(f"-o{key}={value}" for key, value in options.items()), *words]


def _wheels(folder: Path, python: str, say: Say) -> None:
    say(f"downloading {', '.join(requirements())} for aarch64 and Python {python}")
    _run(pip_words(folder, python), "pip")


def requirements() -> list[str]:
    """NumPy and the runtimes, in the versions of this machine where it has them: masks of both are compared."""
    wanted = [DISTRIBUTIONS[name][1][0] for name in ("numpy", *RUNTIMES)]
    return [f"{package}=={found}" if (found := _version(package)) else package for package in wanted]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def pip_words(folder: Path, python: str) -> list[str]:
    """pip for another machine: wheels alone, nothing is built and nothing installed."""
    tags = ["--python-version", python, "--implementation", "cp"]
    tags += [word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    tags += [word for platform in PLATFORMS for word in ("--platform", platform)]
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        *tags,
        *requirements(),
    ]


def _run(argv: Sequence[str], noun: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        lines = [line for line in said if line.startswith(("E:", "ERROR", "dpkg-deb: error"))] or said[-1:]
        raise EdgesegError(f"{noun} ended with exit code {done.returncode}: {'; '.join(lines) or 'it said nothing'}")


def fakes(board: Board) -> dict[str, str]:
    """Path below the root -> text of the files that say what the machine is. Nothing that a sensor would have to measure."""
    cpu = "sys/devices/system/cpu"
    clock = {"scaling_governor": "emulated", "cpuinfo_min_freq": str(board.khz), "cpuinfo_max_freq": str(board.khz)}
    each = [
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {board.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: {board.variant}\nCPU part\t: {board.part}\nCPU revision\t: {board.revision}\n"
        for number in range(board.cores)
    ]
    cores = f"0-{board.cores - 1}\n"
    return {
        "proc/cpuinfo": "\n".join([*each, f"Model\t\t: {board.model}\n"]),
        "sys/firmware/devicetree/base/model": f"{board.model}\0",
        **{f"{cpu}/{name}": cores for name in ("possible", "present", "online")},
        **{
            f"{cpu}/cpu{number}/cpufreq/{name}": f"{text}\n"
            for number in range(board.cores)
            for name, text in clock.items()
        },
        **{f"{cpu}/cpufreq/policy0/{name}": f"{text}\n" for name, text in clock.items()},
    }

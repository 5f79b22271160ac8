"""Where a result came from: the version of this package, its commit, and the versions of the tools that were used."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from edgeseg.schema import STRICT


@dataclass(frozen=True)
class MadeBy:
    """The edgeseg that wrote a document. `commit` and `dirty` are null outside a git checkout."""

    __pydantic_config__ = STRICT
    version: str
    commit: str | None
    dirty: bool | None


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def made_by() -> MadeBy:
    """This package's version and, in a checkout, its commit."""
    from edgeseg import __version__

    top = Path(__file__).resolve().parent.parent
    if not (top / ".git").exists():
        return MadeBy(__version__, None, None)
    commit = _git(top, "rev-parse", "HEAD")
    status = _git(top, "status", "--porcelain", "--untracked-files=no")
    return MadeBy(__version__, commit or None, None if status is None else bool(status))


def _git(top: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the named distributions; those that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

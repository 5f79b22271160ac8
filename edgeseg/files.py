"""Files that are either whole or not there: written aside, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed onto `path` when the block ends well, removed when it does not.

    Raises:
        EdgesegError: the folder is read-only or the disk is full; what stood at `path` is untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp makes 0600; a result is as readable as any other file
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EdgesegError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def held(part: Path) -> Iterator[None]:
    """While this is entered, `clear_parts` of any process leaves `part` alone; that ends with this process, however it does."""
    try:
        import fcntl  # not on Windows, where what is open cannot be removed
    except ImportError:
        yield
        return
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(part.open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # who clears holds it for a moment
                if os.fstat(file.fileno()).st_nlink:
                    break
            except OSError:  # a file system without locks, where nothing is cleared
                break
        yield


def clear_parts(path: Path) -> None:
    """Remove what processes that are gone had written with `aside` and `held` of the file at `path`."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        with suppress(OSError):  # somebody else's: held, or gone by now
            _remove_unless_held(part)


def _remove_unless_held(part: Path) -> None:
    try:
        import fcntl
    except ImportError:
        part.unlink()
        return
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()


@contextmanager
def aside_folder(path: Path, instead: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """A folder beside `path` to fill; it takes the place of `path` when the block ends well.

    instead: from the filled folder to where it goes; by default `path`.

    What stood at `path` is kept until the new folder is complete; leftovers of a killed earlier try are removed first,
    and what it had already moved out of the way is moved back.
    """
    temporary, place = _part(path), path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _old(path).exists() and not path.exists():
            _old(path).replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        place = instead(temporary) if instead else path
        if place.exists():
            shutil.rmtree(_old(place), ignore_errors=True)
            place.replace(_old(place))
            temporary.replace(place)
            shutil.rmtree(_old(place))
        else:
            temporary.replace(place)
    except OSError as error:
        raise EdgesegError(f"cannot write {place}: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_aside(path: Path) -> None:
    """Remove what a killed process had written beside `path`; what stands at `path` stays."""
    shutil.rmtree(_part(path), ignore_errors=True)


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _part(path: Path) -> Path:
    return path.parent / f".{path.name}.part"


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, document: Any) -> Path:
    """Write a JSON document whole or not at all; NaN and infinity are refused, since JSON has neither."""
    return write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document in a file, or one line saying why there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgesegError(f"{path} does not exist") from None
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EdgesegError(f"{path} is not JSON ({error}); was it cut off or edited?") from error


def inside(folder: Path, relative: str) -> Path:
    """The path of `relative` in `folder`; a name that leads out of the folder is refused.

    Raises:
        EdgesegError: `relative` is absolute, climbs out with `..`, or is a link to somewhere else.
    """
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()) or Path(relative).is_absolute():
        raise EdgesegError(f"{relative!r} leaves its folder {folder}; refusing to read it")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # read once at import: the call is not safe between threads

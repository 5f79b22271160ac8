"""Dataclasses to JSON and back; a document that does not fit is one clear line, never a half-read object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from edgeseg.errors import EdgesegError
from edgeseg.files import read_json, write_json

T = TypeVar("T")

STRICT = {"extra": "forbid"}
"""`__pydantic_config__` of every stored dataclass: an unknown key is an error, not a shrug."""


def _adapter(kind: Any) -> Any:
    if kind not in _ADAPTERS:
        from pydantic import TypeAdapter  # 0.15 s: only when a document is read or written

        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[Any, Any] = {}  # making one takes milliseconds, a folder of records asks for thousands


def dump(value: Any) -> Any:
    """A JSON-ready copy of a dataclass."""
    return _adapter(type(value)).dump_python(value, mode="json")


def parse(kind: type[T], document: Any, where: str) -> T:
    """A `kind` made from a JSON document; `where` names the document in the error."""
    from pydantic import ValidationError

    try:
        result: T = _adapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the document"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise EdgesegError(f"{where}: {at}: {first['msg']}, got {first['input']!r:.80}{more}") from error
    return result


def write(path: Path, value: Any) -> Path:
    """Store a dataclass as JSON."""
    return write_json(path, dump(value))


def read(kind: type[T], path: Path) -> T:
    """Read a dataclass from JSON."""
    return parse(kind, read_json(path), str(path))

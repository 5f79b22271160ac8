"""Dataclasses to JSON and back; a document that does not fit is one clear line, never a half-read object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        at = _place(document, first["loc"]) or "the document"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise EdgesegError(f"{where}: {at} {_said(first)}{more}") from error
    return result


def _place(document: Any, path: Sequence[Any]) -> str:
    """Where in a document, as its author would say it: without the names of the kinds that a choice was made among."""
    parts = []
    for part in path:
        if isinstance(document, dict) and part not in document and document.get("type") == part:
            continue
        parts.append(str(part))
        if isinstance(document, dict):
            document = document.get(part)
        else:
            document = document[part] if isinstance(document, list) and part in range(len(document)) else None
    return ".".join(parts)


def _said(error: Mapping[str, Any]) -> str:
    """What is wrong, and what arrived."""
    kind, given = error["type"], f"got {error['input']!r:.80}"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"is unknown here; {given}"
    if kind == "missing":
        return f"is missing; {given}"
    if kind == "union_tag_invalid":
        about = error["ctx"]
        return f"of type {about['tag']!r} is unknown; there is {about['expected_tags']}"
    wanted = error["msg"].removeprefix("Input ").partition(", unable to")[0].partition(", got")[0]
    return f"{wanted}, {given}"


def write(path: Path, value: Any) -> Path:
    """Store a dataclass as JSON."""
    return write_json(path, dump(value))


def read(kind: type[T], path: Path) -> T:
    """Read a dataclass from JSON."""
    return parse(kind, read_json(path), str(path))

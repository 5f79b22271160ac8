"""A name belongs to one owner, and a wrong name is answered with the near ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from edgeseg.errors import EdgesegError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, in the order of registration."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Give `name` to `entry`; a second owner is an error."""
        if name in self._entries:
            raise ValueError(f"{self.noun} {name!r} already belongs to {self._entries[name]!r}")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(self._entries)}"
        raise EdgesegError(f"no {self.noun} named {name!r}; {hint}")

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

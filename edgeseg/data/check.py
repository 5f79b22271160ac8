"""The check of a data set before hours are spent on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgeseg.data.base import Data, Split
from edgeseg.data.folders import Pairs
from edgeseg.errors import EdgesegError

SHOWN = 10
"""Problems that an error lists; the others are counted."""


def check(data: Data, split_names: Iterable[str], advance: Callable[[int], None] = lambda count: None) -> list[str]:
    """Every problem of the named splits, one line each, none twice; `advance` is told how many images were read."""
    lines: list[str] = []
    for name in dict.fromkeys(split_names):
        try:
            lines += _problems(data.split(name), advance)
        except EdgesegError as error:  # the split cannot even be listed
            lines.append(str(error))
    return list(dict.fromkeys(lines))


def require(data: Data, split_names: Iterable[str], advance: Callable[[int], None] = lambda count: None) -> None:
    """Nothing when the named splits are sound, else one error with the first problems and their number."""
    refuse(data.spec, check(data, split_names, advance))


def refuse(spec: str, lines: Sequence[str]) -> None:
    """Nothing when there are no problems, else one error with the first and their number."""
    if not lines:
        return
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    raise EdgesegError("\n  ".join([f"{spec}: {count} to repair before training:", *lines[:SHOWN], *more]))


def _problems(split: Split, advance: Callable[[int], None]) -> list[str]:
    if isinstance(split, Pairs):
        return split.problems(advance)
    lines = split.problems()
    advance(len(split))
    return lines

"""What a runtime's own benchmark is: a line that starts it, and a reader of what it leaves behind, version by version."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.runtimes import statistics
from edgeseg.runtimes.record import Operator
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Figures:
    """Latency in ms, null where nobody says it; `percentiles_ms` by percentile, e.g. `90`."""

    __pydantic_config__ = STRICT
    count: int | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    percentiles_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolResult:
    """What a tool measured.

    samples_ns: every duration, where the tool gives them; null where it keeps them to itself.
    source:     whether `figures` were computed here, from `samples`, or are the `tool`'s own, rounded as it rounds.
    covers:     what the times include, in a word or two.
    placed:     operators per unit, as in an `Execution`.
    warnings:   what the tool warned of.
    unread:     lines that this version of edgeseg could not read, with their numbers; never the ones that a figure needs.
    """

    __pydantic_config__ = STRICT
    tool: str
    version: str | None
    samples_ns: list[int] | None
    figures: Figures
    source: Literal["samples", "tool"]
    covers: str
    load_ms: float | None
    first_ms: float | None
    threads: int | None
    precision: str | None
    placed: dict[str, int] | None
    peak_memory_bytes: int | None
    operators: list[Operator] | None
    warnings: list[str]
    unread: list[str]


class Command(Protocol):
    """The choices for one run of a tool."""

    def argv(self, version: str | None) -> list[str]:
        """What to start, in the words of that version; the tool's name comes first.

        Raises:
            EdgesegError: words of that version are not known.
        """

    @property
    def writes(self) -> Mapping[str, str]:
        """Role -> the file that the tool will have written, to be handed to the reader."""


@dataclass(frozen=True)
class Work:
    """A file of an artifact, how it is to run, and the size of its images (height, width)."""

    file: str
    threads: int
    precision: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Output:
    """What a run of a tool left behind. `files`: role -> text of a file that it wrote; `version`: where it does not print its own."""

    text: str
    files: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None


@dataclass(frozen=True)
class Tool:
    """A runtime's own benchmark.

    runtime: whose files it executes.
    command: what there is to measure to the usual run.
    stated:  finds the version in the output, as the first group; null for a tool that does not print it.
    readers: the beginning of a version -> what reads its output. The newest comes last and also tries newer versions,
             in which every line must be known to it.
    kinds:   the beginning of a version -> the lines that its reader knows.
    begins:  what stands in the first line of the results, where a tool first says much else: options, devices, progress.
    """

    name: str
    runtime: str
    command: Callable[[Work], Command]
    stated: str | None
    readers: Mapping[str, Callable[[Output, Lines], ToolResult]]
    kinds: Mapping[str, Mapping[str, str]]
    begins: str | None = None

    def version(self, output: Output) -> str | None:
        """The version of the tool that wrote this, e.g. `10.3.0`."""
        found = re.search(self.stated, output.text, re.MULTILINE) if self.stated else None
        return dotted(found[1]) if found else output.version

    def read(self, output: Output) -> ToolResult:
        """The result in an output.

        Raises:
            EdgesegError: a line that is needed is missing, or one of a version that is not known cannot be read.
        """
        version = self.version(output)
        known = [start for start in self.readers if (version or "").startswith(start)]
        start = known[-1] if known else list(self.readers)[-1]
        strict = version is not None and not known
        lines = Lines(f"{self.name} {version or 'of unknown version'}", output.text, self.kinds[start], self.begins)
        if strict:
            lines.refuse_unread(f"edgeseg reads versions {', '.join(self.readers)}")
        return self.readers[start](output, lines)


TOOLS: Registry[Tool] = Registry("tool")
"""Name -> tool; each file of this folder that is one adds itself."""

NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
"""A finite decimal number: NaN and infinity are no lines of a result."""


class Lines:
    """The lines of an output by kind.

    kinds:  name -> pattern of a whole line, blanks around it left out.
    begins: what stands in the line from which on every line has to be known; by default all have to be.
    """

    def __init__(self, who: str, text: str, kinds: Mapping[str, str], begins: str | None = None) -> None:
        self._who = who
        self._found: dict[str, list[re.Match[str]]] = {}
        self.unread: list[str] = []
        patterns = [(name, re.compile(pattern)) for name, pattern in kinds.items()]
        results = begins is None
        for number, line in enumerate(text.splitlines(), 1):
            results = results or (begins or "") in line
            if not line.strip():
                continue
            name, match = next(((n, m) for n, p in patterns if (m := p.fullmatch(line.strip()))), ("", None))
            if match is None and results:
                self.unread.append(f"line {number}: {line.strip():.200}")
            if match is not None:
                self._found.setdefault(name, []).append(match)

    def all(self, kind: str) -> list[re.Match[str]]:
        """The lines of a kind, in their order."""
        return self._found.get(kind, [])

    def get(self, kind: str) -> re.Match[str] | None:
        """The last line of a kind, if any."""
        return self.all(kind)[-1] if self.all(kind) else None

    def need(self, kind: str) -> re.Match[str]:
        """The last line of a kind that has to be there."""
        found = self.get(kind)
        if found is None:
            raise self.missing(kind)
        return found

    def number(self, kind: str) -> float | None:
        """The number in the last line of a kind, if any."""
        found = self.get(kind)
        return None if found is None else float(found[1])

    def missing(self, what: str) -> EdgesegError:
        """The error for a result without `what`."""
        hint = f"; not understood: {self.unread[0]!r}" if self.unread else "; was the output cut off?"
        return EdgesegError(f"{self._who}: its output has no line for {what!r}{hint}")

    def refuse_unread(self, why: str) -> None:
        """An error that names the first line that could not be read, if there is one."""
        if self.unread:
            raise EdgesegError(f"{self._who}: cannot read {self.unread[0]!r}; {why}")


def finite(value: object) -> float:
    """A number of an exported file.

    Raises:
        ValueError: it is none, or NaN or infinite.
    """
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no time")
    return number


def dotted(version: str) -> str:
    """`101000` as `10.10.0`, which is how TensorRT prints 10.10.0; anything else as it is."""
    if not version.isdigit() or len(version) < 5:
        return version
    return f"{int(version) // 10000}.{int(version) // 100 % 100}.{int(version) % 100}"


def figures(samples_ns: list[int]) -> Figures:
    """Figures of every sample; percentiles as far as there are enough samples for them."""
    ms = np.asarray(samples_ns) / 1e6
    shares = {str(p): value for p in (90, 95, 99) if (value := statistics.quantile(ms, p / 100)) is not None}
    extremes = float(ms.min()), float(ms.max())
    return Figures(len(ms), float(ms.mean()), float(np.median(ms)), *extremes, float(ms.std()), shares)


def milliseconds_to_ns(values: list[float], who: str) -> list[int]:
    """Samples in ns from ms.

    Raises:
        EdgesegError: there are none, or one is not a positive number.
    """
    samples = [round(value * 1e6) for value in values if value > 0 and np.isfinite(value)]
    if not samples or len(samples) != len(values):
        raise EdgesegError(f"{who}: {len(values)} samples, {len(values) - len(samples)} of them no positive times")
    return samples

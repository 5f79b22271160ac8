"""What a sweep makes before it measures: runs exported, or quantized on named images, each once, by whoever has a processor free."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.files import aside_folder
from edgeseg.quantize.scheme import ALSO, QUANTIZED
from edgeseg.runtimes.farm.queue import Outcome, Queue
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Exports:
    """An entry of `exports` in `sweep.yaml`: every run to every target in every precision.

    runs:   folders, from where the file is.
    size:   `HxW`; the size a run was trained at by default.
    calib:  where calibration images come from, and `images` how many, for what is quantized.
    data:   images for the proof; a run's own by default. Like `calib` it is found from where the command runs.
    """

    __pydantic_config__ = STRICT
    runs: list[str]
    to: list[str]
    precision: list[str] = field(default_factory=lambda: ["fp32"])
    bake: list[str] = field(default_factory=lambda: ["pre", "labels"])
    size: str | None = None
    calib: str | None = None
    images: int = 64
    data: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", list(dict.fromkeys(ALSO.get(each, each) for each in self.precision)))
        if not self.runs or not self.to or not self.precision:
            raise EdgesegError("exports need at least one of runs, to and precision")
        if self.calib is None and (whole := [each for each in self.precision if each in QUANTIZED]):
            raise EdgesegError(f"{whole[0]} takes calibration images; say calib, e.g. camvid:PATH")

    def options(self, target: str, precision: str) -> list[str]:
        """The options of the command that makes one."""
        words = ["--to", target, "--precision", precision, "--bake", ",".join(self.bake)]
        words += ["--size", self.size] if self.size else []
        words += ["--data", self.data] if self.data else []
        return [*words, "--calib", str(self.calib), "--images", str(self.images)] if precision in QUANTIZED else words


@dataclass(frozen=True)
class Order:
    """One artifact to make: `run` with these weights, by `edgeseg VERB RUN --out PART OPTION...`."""

    run: Path
    sha256: str
    verb: str
    options: tuple[str, ...]
    name: str

    def words(self, run: Path, part: Path) -> list[str]:
        """The command, of the run where that is now, into a folder that is still empty."""
        return [self.verb, str(run), "--out", str(part), *self.options]

    @property
    def key(self) -> str:
        """What it is of: the same text is the same artifact."""
        return json.dumps([str(self.run), self.sha256, self.verb, *self.options])


Make: TypeAlias = Callable[[Order, Path], Awaitable[Outcome]]
"""Fills a folder with an order's artifact in a folder of its own, also where that failed its proof."""


def orders(exports: Iterable[Exports], home: Path) -> list[Order]:
    """What the entries ask for.

    Raises:
        EdgesegError: a run that is none, a target that is none or cannot do a precision, or two artifacts that would have one name.
    """
    from edgeseg.cli.app import parse_size
    from edgeseg.export import TARGETS
    from edgeseg.runs import read_card

    made: dict[str, Order] = {}
    for entry in exports:
        parse_size(entry.size)
        for run in ((home / name).resolve() for name in entry.runs):
            sha256 = read_card(run).sha256
            for target, precision in ((to, each) for to in entry.to for each in entry.precision):
                kind = TARGETS[target](precision=precision)  # type: ignore[arg-type]  # refuses what it cannot do
                name = f"{run.name}-{kind.name}-{precision}"
                if name in made:
                    raise EdgesegError(f"{name} would be made twice: runs of one sweep have folders of different names")
                verb = "quantize" if precision in QUANTIZED else "export"
                made[name] = Order(run, sha256, verb, tuple(entry.options(target, precision)), name)
    return list(made.values())


async def made(
    queue: Queue, wanted: Sequence[Order], folder: Path, make: Make, notify: Callable[[Order, Outcome], None]
) -> dict[str, Outcome]:
    """Name -> how it went, of all orders; those made before from the same weights in the same way are taken as they are.

    An artifact that failed its proof goes to `NAME-failed`, and stays there until the next one passes.
    """

    async def one(order: Order) -> Outcome:
        kept = queue.export(order.name, order.key)
        if kept and (kept.state == "failed" or _there(folder / order.name)):
            return kept
        part = folder / f".{order.name}.making"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            outcome = await make(order, part)
            found = next((each for each in part.iterdir() if (each / "manifest.json").exists()), None)
            if outcome.state == "done" and found is None:
                outcome = replace(outcome, state="failed", reason=f"{order.verb} ended well and left no artifact")
            if found and outcome.state != "waiting":
                _placed(found, folder / (order.name if outcome.state == "done" else f"{order.name}-failed"), order)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        queue.keep_export(order.name, order.key, outcome)
        notify(order, outcome)
        return outcome

    outcomes = await asyncio.gather(*map(one, wanted))
    return dict(zip((order.name for order in wanted), outcomes, strict=True))


def _there(place: Path) -> bool:
    try:
        Artifact.open(place)
    except EdgesegError:
        return False
    return True


def _placed(found: Path, place: Path, order: Order) -> None:
    """Put an artifact where it belongs; it names its run as it is called here, wherever it was made."""
    from edgeseg.export import clear_failed

    artifact = Artifact.open(found)
    artifact.update(source=replace(artifact.manifest.source, run=str(order.run)))
    with aside_folder(place) as part:
        part.rmdir()
        found.replace(part)
    clear_failed(place)

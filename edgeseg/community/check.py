"""What the table refuses. A pull request's CI runs this on files of people nobody knows, so nothing that can be computed again is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeseg import schema
from edgeseg.community.submission import PLACE, Submission, file_in, slug
from edgeseg.community.table import read_submission, read_table
from edgeseg.errors import EdgesegError
from edgeseg.ledger import Hop
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes import statistics
from edgeseg.runtimes.measure import reasons, stage_of
from edgeseg.runtimes.protocol import SMOKE, parse
from edgeseg.runtimes.record import Record, Samples, Stage
from edgeseg.runtimes.telemetry import validity
from edgeseg.verdict import holds, spelt

EXACT = 1e-6
"""Figures that follow from the samples agree to this share: sums in another order."""

DRAWN = 0.02
"""Ends of a bootstrap interval: another NumPy may draw other blocks."""

DRAWN_FIGURES = ("low", "high", "p50_low_ms", "p50_high_ms")

PRIVATE = {
    "an absolute path": PLACE,
    "an address": re.compile(r"[\w.+-]+@[\w-]+"),
    "the address of a network card": re.compile(r"(?i)(?<![\w:])[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?![\w:])"),
    "the id of a machine or its boot": re.compile(
        r"(?i)(?<![\w-])(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?![\w-])"
    ),
}
"""What a text of a submission must not have in it; commits and SHA-256 are longer."""


def check_table(folder: Path) -> list[tuple[Path, list[str]]]:
    """Every file of a table with what speaks against it, nothing where nothing does.

    Raises:
        EdgesegError: `folder` is no table of folders of devices.
    """
    seen: dict[str, Path] = {}
    return [
        (
            path,
            [str(made)] if isinstance(made, EdgesegError) else [*refusals(made), *_misplaced(folder, path, made, seen)],
        )
        for path, made in read_table(folder)
    ]


def check_file(path: Path) -> list[str]:
    """What speaks against one file, wherever it lies."""
    try:
        return refusals(read_submission(path))
    except EdgesegError as error:
        return [str(error)]


def _misplaced(folder: Path, path: Path, made: Submission, seen: dict[str, Path]) -> Iterator[str]:
    place = file_in(folder, made)
    if path != place:
        yield f"belongs in {place.relative_to(folder)}"
    other = seen.setdefault(made.record.samples.data, path)
    if other != path:
        yield f"has the samples of {other.relative_to(folder)}: one measurement counts once"


def refusals(made: Submission) -> list[str]:
    """Why a submission is not for the table, one line each."""
    if odd := list(_odd(made)):
        return odd  # figures that are none cannot be computed with
    try:
        return [line for rule in RULES for line in rule(made)]
    except EdgesegError as error:
        return [str(error)]


def _odd(made: Submission) -> Iterator[str]:
    for where, value in _leaves(schema.dump(made)):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{where} is {value}, no number"
    if len(made.record.subject.input_shape) != 4:
        yield f"an input of {made.record.subject.input_shape} is no image"


def _measured(made: Submission) -> Iterator[str]:
    record = made.record
    if record.provenance != "measured":
        yield f"its figures are {record.provenance}, not measured"
    if not record.valid or record.reasons:
        yield f"the measurement is not valid: {'; '.join(record.reasons) or 'it does not say why'}"
    elif again := [
        # what only the measuring process knew is believed; all that follows from the record is not
        *reasons(_computed(record), {"others_cores": 0.0, "nonfinite": 0, "unchanged": 1.0}),
        *(validity.reasons(said.before, said.after, said.during) if (said := record.sensors) else []),
    ]:
        yield f"the measurement says it is valid, but is not: {'; '.join(again)}"
    try:
        known = parse(record.protocol.name) == record.protocol
    except EdgesegError:
        known = False
    if not known or record.protocol.name == SMOKE:
        yield f"{record.protocol.name!r} is no protocol whose figures are quoted, or not as long; take quick"
    energy, source = record.energy_mj, record.energy_source
    if (energy is None) != (source is None) or not (energy is None or energy > 0):
        yield f"an energy of {energy} mJ from {source or 'nowhere'} is none"


def _proven(made: Submission) -> Iterator[str]:
    record, proof = made.record, made.proof
    if proof.sha256 != record.subject.sha256:
        yield "the proof is of another file than the one that was measured (SHA-256 differs)"
    if not proof.ledger.passed or not all(holds(hop) and _within(hop) for hop in proof.ledger.hops):
        yield "the masks did not pass their proof"
    executed, proven = spelt(record.execution.precision), spelt(proof.precision)
    if executed is None or proven is None or executed != proven:
        yield f"it ran in {executed or 'a precision unknown'}, and was proven in {proven or 'one unknown'}"


def _within(hop: Hop) -> bool:
    """Whether the figures of a hop are within the tolerances that it names, whatever it says itself."""
    limit = PRECISIONS[hop.precision]
    masks = (hop.same_label, limit.same_label), (hop.boundary_f, limit.boundary_f)
    enough = all(figure >= least for figure, least in (*masks, (hop.worst_class_iou, limit.worst_class_iou)))
    return enough and hop.images > 0 and (hop.relative_rms is None or hop.relative_rms <= limit.relative_rms)


def _computed(record: Record) -> Record:
    """The record with the figures that its samples give."""
    starts, durations = record.samples.unpack()
    segments, fps = statistics.segments(starts, durations), record.protocol.fps
    return replace(
        record,
        latency=statistics.latency(starts, durations),
        noise=statistics.self_noise(starts, durations),
        segments=segments,
        sustained=statistics.sustained(segments) if record.protocol.kind == "sustained" else None,
        camera=statistics.camera(*record.camera.ages.unpack(), fps) if record.camera and fps else None,
        stages=record.stages and [stage_of(each.name, *each.samples.unpack()) for each in record.stages],
        e2e=statistics.latency(*_whole(record.stages)) if record.stages else None,
        halves=record.halves and [stage_of(each.name, *each.samples.unpack()) for each in record.halves],
    )


def _whole(stages: Sequence[Stage]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and durations of the whole way, which is that of its stages, one after the other."""
    series = [each.samples.unpack() for each in stages]
    if len({len(starts) for starts, _ in series}) != 1:
        raise EdgesegError("the stages of the whole way have other numbers of samples")
    return series[0][0], np.sum([durations for _, durations in series], axis=0)


def _figures(made: Submission) -> Iterator[str]:
    record, again = made.record, _computed(made.record)
    for kind, part in (("camera", record.camera), ("cold-start", record.cold_start)):
        if (part is not None) != (record.protocol.kind == kind):
            yield f"{record.protocol.name} and what only {kind} asks for do not go together"
    if record.halves and not all(map(np.array_equal, _whole(record.halves), record.samples.unpack())):
        yield "encoder and prompt together are not what the samples say"
    for name in ("latency", "noise", "segments", "sustained", "camera", "stages", "e2e", "halves"):
        for where in _differences(_plain(getattr(record, name)), _plain(getattr(again, name)), name):
            yield f"{where} is not what the samples say"


def _plain(value: Any) -> Any:
    """As it stands in JSON; samples by what they hold, since zlib may pack them in another way."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Samples):
        return [part.tolist() for part in value.unpack()]
    return {name: _plain(item) for name, item in vars(value).items()} if hasattr(value, "__dict__") else value


def _differences(said: Any, found: Any, where: str) -> Iterator[str]:
    """Where two documents are not the same."""
    if isinstance(said, dict) and isinstance(found, dict):
        for name in found:
            yield from _differences(said.get(name), found[name], f"{where}.{name}")
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        for index, (one, other) in enumerate(zip(said, found, strict=True)):
            yield from _differences(one, other, f"{where}.{index}")
    elif isinstance(said, float) and isinstance(found, (int, float)):
        within = DRAWN if where.rsplit(".", 1)[-1] in DRAWN_FIGURES else EXACT
        # a noise of nearly nothing differs by its own size: an absolute share of a log-ratio is the same thing
        if not math.isclose(said, found, rel_tol=within, abs_tol=within if where.startswith("noise") else 0.0):
            yield where
    elif said != found:
        yield where


def _cold_start(made: Submission) -> Iterator[str]:
    """A sample is loading and first inference together, of one process; ready, it has done both."""
    record, cold = made.record, made.record.cold_start
    if cold is None:
        return
    said = (cold.loads_ms, cold.firsts_ms, cold.readies_ms)
    count = record.samples.count
    if cold.processes != count or any(len(each) != count for each in said):
        yield f"cold_start is of {cold.processes} processes, and {', '.join(str(len(each)) for each in said)} times: the samples are {count}"
        return
    for name, each in zip(("load_ms", "first_ms", "ready_ms"), said, strict=True):
        if not math.isclose(getattr(cold, name), float(np.median(each)), rel_tol=EXACT):
            yield f"cold_start.{name} is not the median of its {count} processes"
    if not _agree((record.load_ms, record.first_ms), (cold.load_ms, cold.first_ms)):
        yield "load_ms and first_ms of the record are not those of its cold starts"
    loads, firsts, readies = (np.array(each) for each in said)
    _, durations = record.samples.unpack()
    if not _agree(durations / 1e6, loads + firsts) or min(loads.min(), firsts.min()) < 0:
        yield "cold_start is not what the samples say: each is loading and first inference"
    if (readies < (loads + firsts) * (1 - EXACT)).any():
        yield "cold_start.readies_ms says that a process was ready before it had loaded and inferred"


def _agree(one: ArrayLike, other: ArrayLike) -> bool:
    return bool(np.allclose(one, other, rtol=EXACT, atol=EXACT))  # times in ns, told in ms


def _somebody(made: Submission) -> Iterator[str]:
    if not re.fullmatch(r"[\w@][\w .@-]{0,58}[\w.]|\w", made.by):
        yield f"{made.by!r} does not say who measured; give a name or a handle of at most 60 letters"
    if not slug(made.record.device.name):
        yield "the device says neither its board nor its processor"


def _private(made: Submission) -> Iterator[str]:
    if made.record.device.boot_id is not None or made.record.device.address != made.record.device.kind:
        yield "it names one device's boot or address; write it with `edgeseg records submit`"
    for where, text in _leaves(schema.dump(made)):
        if isinstance(text, str):
            yield from (
                f"{where} has {what} in it: {text!r:.80}" for what, form in PRIVATE.items() if form.search(text)
            )


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and plain value of a document, but for packed samples, which are numbers."""
    if isinstance(value, dict):
        for name, item in value.items():
            inner = f"{where}.{name}" if where else name
            yield inner, name
            if not (name == "data" and value.keys() == {"count", "data"}):
                yield from _leaves(item, inner)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{where}.{index}")
    else:
        yield where, value


RULES: tuple[Callable[[Submission], Iterator[str]], ...] = (
    _measured,
    _proven,
    _figures,
    _cold_start,
    _somebody,
    _private,
)

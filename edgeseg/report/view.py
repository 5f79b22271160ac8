"""What the page shows, worked out beforehand: the template only lays it out."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from markupsafe import Markup

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.files import inside
from edgeseg.ledger import Ledger
from edgeseg.metrics import Evaluation, PromptEvaluation
from edgeseg.quantize.findings import Search, Trial, called
from edgeseg.report import charts
from edgeseg.report.asked import Nothing, Section, nothings, sections
from edgeseg.report.images import Evidence, Overlay, damaged, evidence
from edgeseg.report.trials import known, trials
from edgeseg.results import Results, StoredSearch
from edgeseg.runtimes.record import Record
from edgeseg.verdict import Verdict, counting, rows, usable

COLOURS = 6
"""Series colours of the page, `c1` to `c6`; a seventh series starts again."""

IMAGE_BYTES = 2_200_000
"""Overlays stop here, so that the page stays below 3 MB and opens on a phone."""

ELSEWHERE = {"ledger", "samples", "warmup", "stages", "halves", "segments", "palette", "trials", "sensitivity"}
"""Keys of stored documents that the details leave out: they are drawn, or too long to read."""


@dataclass(frozen=True)
class Entry:
    """One row or curve: an artifact somewhere, or a run in torch. It keeps its name and colour all over the page.

    subject: the name without device and threads.
    """

    name: str
    subject: str
    colour: str
    sha256: str
    record: Record | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Figure:
    """A chart in both drawings."""

    title: str
    caption: str
    phone: Markup
    desk: Markup
    key: list[tuple[str, str]] = field(default_factory=list)
    """(colour, words) where the drawing does not name its curves itself."""


@dataclass(frozen=True)
class Stages:
    """The end-to-end bar of one record."""

    entry: Entry
    figure: Figure


@dataclass(frozen=True)
class Column:
    """Per-class IoU in percent of one subject, and the gain over its run in points; null where there is none."""

    name: str
    miou: float
    gain: float | None
    iou: list[float | None]
    gains: list[float | None]


@dataclass(frozen=True)
class ClassTable:
    """Everything that was evaluated on the same data, split and classes; `classes` are (name, CSS colour)."""

    on: str
    images: int
    classes: list[tuple[str, str]]
    columns: list[Column]


@dataclass(frozen=True)
class Gallery:
    """The evidence of one artifact, and how many images were left out to keep the page small."""

    name: str
    shown: list[Evidence]
    left_out: int


@dataclass(frozen=True)
class Tried:
    """A search.

    figure:   null where no trial was both scored and timed.
    rows:     every trial under its name; how many blocks are in float is in a column of its own.
    kept:     what the chosen trial has in float.
    pictures: of the worst blocks; `left_out` of them to keep the page small.
    """

    name: str
    found: Search
    figure: Figure | None
    rows: list[tuple[str, Trial]]
    kept: list[str]
    pictures: list[Overlay]
    left_out: int


@dataclass(frozen=True)
class Details:
    """A stored document as (key, value) rows."""

    title: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """The page from top to bottom."""

    title: str
    answer: str
    subject: str
    gates: str
    cards: list[Entry]
    figures: list[Figure]
    searches: list[Tried]
    timelines: list[Figure]
    asked: list[Section]
    nothings: list[Nothing]
    stages: list[Stages]
    tables: list[ClassTable]
    ledgers: list[tuple[str, Ledger]]
    galleries: list[Gallery]
    simulated: list[Entry]
    details: list[Details]
    problems: list[str]


def page(results: Results, verdicts: Sequence[Verdict], max_drop: float, max_p90_ms: float | None) -> Page:
    """Everything in `results` and its verdicts, ready to be laid out."""
    entries = name_entries(results, verdicts)
    judged = [entry for entry in entries if entry.verdict]
    problems = list(results.problems)
    share = IMAGE_BYTES / max(1, len(results.artifacts) + len(results.searches))
    galleries = list(_galleries(results, entries, problems, share))
    searches = [_tried(results, stored, problems, share) for stored in results.searches]
    students = {a.manifest.student.name for a in results.artifacts} | {run.card.name for run in results.runs}
    students |= {stored.found.student for stored in results.searches}
    budget = f"p90 within {max_p90_ms:g} ms" if max_p90_ms is not None else "no latency budget"
    return Page(
        title=headline(verdicts),
        answer=answer(judged, [stored.found for stored in results.searches]),
        subject=", ".join(sorted(students)),
        gates=f"at most {max_drop:g} points of mIoU lost; {budget}",
        cards=sorted(judged, key=_quickest_shipping_first),
        figures=list(_figures(entries, results, max_drop, max_p90_ms)),
        searches=searches,
        timelines=list(_timelines(entries)),
        asked=sections(results.records, {entry.sha256: entry.colour for entry in entries}),
        nothings=list(nothings(results.failures)),
        stages=list(_stages(entries)),
        tables=list(_class_tables(results, entries)),
        ledgers=[(_name(entries, a.sha256), a.manifest.ledger) for a in results.artifacts if a.manifest.ledger],
        galleries=galleries,
        simulated=[entry for entry in entries if entry.record and entry.record.provenance != "measured"],
        details=list(_details(results, entries)),
        problems=problems,
    )


def _quickest_shipping_first(entry: Entry) -> tuple[bool, float]:
    verdict = entry.verdict
    return (not verdict.ship, verdict.p90_ms or math.inf) if verdict else (True, math.inf)


def headline(verdicts: Sequence[Verdict]) -> str:
    """The answer in a few words, e.g. `2 of 3 artifacts ship`."""
    noun = "artifact" if len({v.artifact for v in verdicts}) == len(verdicts) else "artifact and device pair"
    ship = sum(verdict.ship for verdict in verdicts)
    if not verdicts:
        return "No artifact to judge"
    if len(verdicts) == 1:
        return f"The {noun} {'ships' if ship else 'does not ship'}"
    return f"{ship or 'None'} of {len(verdicts)} {noun}s ship{'s' if ship < 2 else ''}"


def answer(judged: Sequence[Entry], searches: Sequence[Search] = ()) -> str:
    """One sentence below the headline: what to take, or the first thing that is in the way."""
    pairs = [(entry.name, entry.verdict) for entry in judged if entry.verdict]
    shipping = [(name, verdict) for name, verdict in pairs if verdict.ship]
    if shipping:
        name, best = min(shipping, key=lambda pair: pair[1].p90_ms or pair[1].p50_ms or 0.0)
        speed = f"p90 {best.p90_ms:.1f} ms" if best.p90_ms else f"p50 {best.p50_ms or 0:.1f} ms"
        lead = "The quickest that ships: " if len(pairs) > 1 else ""
        return f"{lead}{name}, {speed}, {best.miou or 0:.1f} % mIoU."
    if pairs:
        name, verdict = pairs[0]
        return f"{name}: {verdict.reasons[0].text}."
    if searches:
        return f"The search on {searches[0].target}: {searches[0].words}."
    return "Nothing was exported yet; run `edgeseg export`."


def name_entries(results: Results, verdicts: Sequence[Verdict]) -> list[Entry]:
    """Everything that can be shown, with the shortest names that tell it apart."""
    found: list[tuple[list[str], list[str], str, Record | None, Verdict | None]] = []
    for (artifact, record), verdict in zip(rows(results), verdicts, strict=True):
        what = [artifact.manifest.student.name, artifact.target, artifact.manifest.precision.asked]
        found.append((what, _where(record), artifact.folder, record, verdict))
    for run in results.runs:
        for measured in counting(results.records_of(run.card.sha256)):
            what = [run.card.name, "torch", measured.subject.precision]
            found.append((what, _where(measured), run.folder, measured, None))
    one_student = len({what[0] for what, *_ in found}) < 2
    subjects = [" ".join(what[one_student:]) for what, *_ in found]
    folders = {
        subject: {item[2] for s, item in zip(subjects, found, strict=True) if s == subject} for subject in subjects
    }
    places = [{item[1][part] for item in found} - {""} for part in range(3)]
    entries: list[Entry] = []
    for subject, (_, where, folder, record, judged) in zip(subjects, found, strict=True):
        full = subject if len(folders[subject]) == 1 else f"{subject} in {folder}"
        telling = [word for word, seen in zip(where, places, strict=True) if word and len(seen) > 1]
        digest = judged.sha256 if judged else record.subject.sha256 if record else ""
        colour = f"c{len(entries) % COLOURS + 1}"
        entries.append(Entry(", ".join([full, *telling]), full, colour, digest, record, judged))
    return entries


def _where(record: Record | None) -> list[str]:
    """Device, processor and threads, each empty where nothing was measured."""
    if record is None:
        return ["", "", ""]
    threads = record.execution.threads
    return [record.device.name, record.device.cpu or "", f"{threads} thread{'s' if threads != 1 else ''}"]


def _name(entries: Sequence[Entry], digest: str) -> str:
    """What an artifact is called where the place does not matter."""
    return next(entry.subject for entry in entries if entry.sha256 == digest)


def _measured(entries: Sequence[Entry]) -> list[charts.Trace]:
    """Records that were really measured; simulated ones never reach a chart."""
    return [
        charts.Trace(entry.name, entry.colour, entry.record)
        for entry in entries
        if entry.record and entry.record.provenance == "measured" and entry.record.samples.count
    ]


def _figure(title: str, caption: str, draw: Callable[[int], Markup], key: Sequence[tuple[str, str]] = ()) -> Figure:
    return Figure(title, caption, draw(charts.PHONE), draw(charts.DESK), list(key))


def _figures(entries: Sequence[Entry], results: Results, max_drop: float, max_p90_ms: float | None) -> Iterator[Figure]:
    """Pareto, drop, distribution: each only when there is something to draw."""
    on, points = _points(entries, results)
    if points:
        yield _figure(
            "Accuracy against latency",
            f"mIoU on {on}. The line joins what nothing else beats in both; whiskers end at the 99 % bound of p90. "
            "A ring with ✕ does not ship.",
            partial(charts.pareto, points, max_p90_ms),
        )
    dropped = list({e.sha256: (e.subject, e.verdict) for e in entries if e.verdict and e.verdict.drop}.values())
    if dropped:
        yield _figure(
            "What deployment costs in accuracy",
            "Points of mIoU lost against the run in torch, with the 95 % interval of a paired bootstrap over images. "
            "Neighbouring frames of a video are alike, which makes such an interval too narrow rather than too wide.",
            partial(charts.drops, dropped, max_drop),
        )
    traces = [trace for trace in _measured(entries) if usable(trace.record)]
    if traces:
        yield _figure(
            "Distribution of latency",
            "Share of frames that took at most so long. Every steady sample counts; none was dropped as an outlier.",
            partial(charts.distribution, traces),
            [(t.colour, f"{t.name}, median {t.record.latency.p50_ms:.1f} ms") for t in sorted(traces, key=_median)],
        )


def _median(trace: charts.Trace) -> float:
    return trace.record.latency.p50_ms


def _points(entries: Sequence[Entry], results: Results) -> tuple[str, list[charts.Point]]:
    """The points of the Pareto chart, all on the data and split that most of them were evaluated on."""
    groups: dict[str, list[charts.Point]] = defaultdict(list)
    for entry in entries:
        record = entry.record
        if record is None or not usable(record) or record.latency.p90_ms is None:
            continue
        scores = {f"{e.data} [{e.split}]": e.score.miou for e in results.evaluations_of(entry.sha256)}
        for on, miou in scores.items():
            ships = entry.verdict.ship if entry.verdict else None
            upper = record.latency.p90_upper_ms
            groups[on].append(charts.Point(entry.name, entry.colour, record.latency.p90_ms, upper, miou, ships))
    return max(groups.items(), key=lambda group: len(group[1]), default=("", []))


def _timelines(entries: Sequence[Entry]) -> Iterator[Figure]:
    for trace in _measured(entries):
        record = trace.record
        lines = [
            f"{record.latency.count:,} samples in {record.latency.wall_s:.1f} s",
            f"protocol {record.protocol.name}",
            f"first inference {record.first_ms:.0f} ms",
            f"loaded in {record.load_ms:.0f} ms",
            *(["throughput changed on the way"] if len(record.segments) > 1 else []),
            *([] if record.valid else [f"NOT VALID: {'; '.join(record.reasons)}"]),
        ]
        yield _figure(trace.name, " · ".join(lines), partial(charts.timeline, trace))


def _stages(entries: Sequence[Entry]) -> Iterator[Stages]:
    records = ((entry, entry.record) for entry in entries if entry.record and entry.record.provenance == "measured")
    timed = [entry for entry, record in records if charts.steps(record)]
    longest = max((sum(step.p50_ms for step in charts.steps(e.record)) for e in timed if e.record), default=0.0)
    for entry in timed if longest else []:
        trace = next(t for t in _measured(timed) if t.record is entry.record)
        yield Stages(entry, _figure(entry.name, "", partial(charts.stages, trace, longest)))


def _class_tables(results: Results, entries: Sequence[Entry]) -> Iterator[ClassTable]:
    palettes = {tuple(r.card.class_names): r.card.palette for r in results.runs}
    palettes |= {tuple(a.manifest.student.class_names): a.manifest.student.palette for a in results.artifacts}
    newest: dict[tuple[str, str, tuple[str, ...]], dict[str, Evaluation]] = defaultdict(dict)
    for digest, _ in _subjects(results, entries):
        for evaluation in results.evaluations_of(digest):
            if isinstance(evaluation, PromptEvaluation):
                continue  # its objects have no classes
            newest[evaluation.data, evaluation.split, tuple(evaluation.class_names)][digest] = evaluation
    sources = {artifact.sha256: artifact.manifest.source.sha256 for artifact in results.artifacts}
    names = dict(_subjects(results, entries))
    for (data, split, classes), found in newest.items():
        colours = [f"rgb({r} {g} {b})" for r, g, b in palettes.get(classes, [])]
        yield ClassTable(
            on=f"{data} [{split}]",
            images=max(evaluation.score.images for evaluation in found.values()),
            classes=list(zip(classes, [*colours, *["transparent"] * (len(classes) - len(colours))], strict=False)),
            columns=[_column(names[key], found[key], found.get(sources.get(key) or "")) for key in found],
        )


def _subjects(results: Results, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """(SHA-256, name) of every run, then of every artifact."""
    runs = [(r.card.sha256, "run in torch" if len(results.runs) == 1 else r.card.name) for r in results.runs]
    return [*runs, *((artifact.sha256, _name(entries, artifact.sha256)) for artifact in results.artifacts)]


def _column(name: str, evaluation: Evaluation, run: Evaluation | None) -> Column:
    score = evaluation.score
    before = run.score.iou if run else [None] * len(score.iou)
    gains = [a - b if a is not None and b is not None else None for a, b in zip(score.iou, before, strict=False)]
    return Column(name, score.miou, score.miou - run.score.miou if run else None, score.iou, gains)


def _tried(results: Results, stored: StoredSearch, problems: list[str], share: float) -> Tried:
    """A search with the pictures of its worst blocks, within its share of the page in bytes."""
    found, pictures, left_out = stored.found, list[Overlay](), 0
    for block in found.sensitivity:
        if block.picture is None:
            continue
        try:
            words = f"{block.block} alone: {100 * block.changed:.2f} % of the labels changed"
            picture = damaged(inside(stored.pictures, block.picture), words)
        except EdgesegError as error:
            problems.append(_relative(results, error))
            continue
        if sum(len(one.uri) for one in [*pictures, picture]) <= share:
            pictures.append(picture)
        else:
            left_out += 1
    drawn = known(found.trials)
    caption = (
        "Top left is best: little lost, quick. The line joins what nothing else beats in both; whiskers are 95 % intervals. "
        "A circle marks the chosen one, ✕ a proof that fails; numbers are those of the table."
    )
    return Tried(
        name=stored.name,
        found=found,
        figure=_figure("", caption, partial(trials, drawn, found.chosen, found.max_drop)) if drawn else None,
        rows=[(called(replace(trial, keep=[])), trial) for trial in found.trials],
        kept=next((trial.keep for trial in found.trials if trial.number == found.chosen), []),
        pictures=pictures,
        left_out=left_out,
    )


def _relative(results: Results, error: EdgesegError) -> str:
    """An error with its paths relative to the scanned folder."""
    return str(error).replace(f"{results.folder}{os.sep}", "")


def _galleries(results: Results, entries: Sequence[Entry], problems: list[str], share: float) -> Iterator[Gallery]:
    """The overlays of each artifact, within its share of the page in bytes; what cannot be read goes to `problems`."""
    for artifact in results.artifacts:
        shown: list[Evidence] = []
        left_out = 0
        for item in evidence(artifact.path / "evidence", artifact.manifest.student.palette, artifact.target):
            if not isinstance(item, Evidence):
                problems.append(_relative(results, item))
            elif sum(one.bytes for one in shown) + item.bytes <= share:
                shown.append(item)
            else:
                left_out += 1
        if shown or left_out:
            yield Gallery(_name(entries, artifact.sha256), shown, left_out)


def _details(results: Results, entries: Sequence[Entry]) -> Iterator[Details]:
    """Every stored document in full, but for what the page shows elsewhere."""
    stored = [
        *((f"Artifact {_name(entries, a.sha256)}", {"folder": a.folder}, a.manifest) for a in results.artifacts),
        *((f"Measurement of {entry.name}", {}, entry.record) for entry in entries if entry.record),
        *((f"Search for {s.name}", {}, s.found) for s in results.searches),
        *((f"Run {run.card.name}", {"folder": run.folder}, run.card) for run in results.runs),
    ]
    for title, head, value in stored:
        document = head | schema.dump(value)
        yield Details(title, list(_flat({key: document[key] for key in document if key not in ELSEWHERE})))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every value in a JSON document; a list of plain values is one line."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{key}.{index}")
    elif isinstance(value, list):
        yield key, ", ".join(str(item) for item in value) or "none"
    else:
        yield key, "not known" if value is None else str(value)

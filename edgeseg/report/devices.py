"""The community's table as a page: a chart and a table for each device, and who measured what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from markupsafe import Markup

from edgeseg.community import Submission
from edgeseg.community.table import COLUMNS, cells, ordered, size_of
from edgeseg.report.charts import DESK, PHONE, Axis, Svg, fit
from edgeseg.report.layout import lay_out
from edgeseg.report.view import Figure


@dataclass(frozen=True)
class Shelf:
    """All that was measured on one kind of device; `rows` without the device's name, which is the title."""

    device: str
    system: str
    figure: Figure
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class DevicesPage:
    """The page from top to bottom."""

    title: str
    columns: tuple[str, ...]
    shelves: list[Shelf]


def render_devices(entries: Sequence[Submission]) -> str:
    """The page as text."""
    shelves = [_shelf(name, list(group)) for name, group in groupby(ordered(entries), lambda m: m.record.device.name)]
    devices = f"{len(shelves)} device{'s' if len(shelves) != 1 else ''}"
    title = f"{len(entries)} measurement{'s' if len(entries) != 1 else ''} on {devices}"
    return lay_out("devices.html.j2", DevicesPage(title, COLUMNS[1:], shelves))


def _shelf(name: str, group: Sequence[Submission]) -> Shelf:
    devices = [made.record.device for made in group]
    words = " or ".join(
        dict.fromkeys(
            f"{d.cpu or 'processor not known'}, {d.cores} cores, {d.memory_bytes / 2**30:.1f} GiB" for d in devices
        )
    )
    draw = partial(medians, group)
    caption = "Median time of a frame with its 95 % interval, and a tick at the 99 % bound of p90, on a log axis."
    return Shelf(name, words, Figure("", caption, draw(PHONE), draw(DESK)), [cells(made)[1:] for made in group])


def medians(group: Sequence[Submission], width: int) -> Markup:
    """A row for each measurement: what it is above, where its median lies below."""
    latencies = [made.record.latency for made in group]
    svg = Svg(width, 40 * len(group) + 40, f"Median time of a frame of {len(group)} measurements")
    low = min(each.p50_low_ms for each in latencies) / 1.3
    high = max(each.p90_upper_ms or each.p50_high_ms for each in latencies) * 1.3
    x, bottom = Axis(low, high, 12, width - 12, log=True), svg.height - 30
    for tick in x.ticks(4):
        svg.line(x(tick), 4, x(tick), bottom, "grid")
        svg.text(x(tick), bottom + 14, f"{tick:g}", kind="tick", anchor="middle")
    svg.text(x.end, svg.height - 3, "ms per frame (log)", kind="tick", anchor="end")
    for row, (made, latency) in enumerate(zip(group, latencies, strict=True)):
        top, figure = 18 + 40 * row, f"{latency.p50_ms:.4g} ms"
        svg.text(12, top, fit(_words(made), width - 110), kind="name halo")
        svg.text(width - 12, top, figure, kind="name halo figure", anchor="end")
        svg.line(x(latency.p50_low_ms), top + 13, x(latency.p50_high_ms), top + 13, "interval c1")
        svg.circle(x(latency.p50_ms), top + 13, 4, "spot c1")
        if latency.p90_upper_ms:
            svg.line(x(latency.p90_upper_ms), top + 8, x(latency.p90_upper_ms), top + 18, "whisker c1")
    return svg.markup()


def _words(made: Submission) -> str:
    record = made.record
    height, width = size_of(record)
    threads = record.execution.threads
    what = f"{record.subject.student} {height}x{width} {record.subject.target} {record.execution.precision}"
    return f"{what} t{threads} {record.protocol.name}"

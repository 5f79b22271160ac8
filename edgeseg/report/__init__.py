"""`edgeseg report`: everything a folder holds, on one page that needs no network, no script and no other file."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.files import write_text
from edgeseg.provenance import made_by, now
from edgeseg.results import Results, collect
from edgeseg.verdict import MAX_DROP, judge

__all__ = ["render", "write_report"]


def write_report(folder: Path, out: Path, *, max_drop: float = MAX_DROP, max_p90_ms: float | None = None) -> Path:
    """Write the page about everything below `folder` to `out`.

    Raises:
        EdgesegError: there is nothing to report, or `out` cannot be written.
    """
    return write_text(out, render(collect(folder), max_drop=max_drop, max_p90_ms=max_p90_ms))


def render(results: Results, *, max_drop: float = MAX_DROP, max_p90_ms: float | None = None) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined

    from edgeseg.report import view, words

    if not (results.artifacts or results.runs or results.records or results.evaluations or results.searches):
        why = f" ({results.problems[0]})" if results.problems else ""
        raise EdgesegError(f"{results.folder} holds no run, artifact, record, evaluation or search to report{why}")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= words.FILTERS
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    verdicts = judge(results, max_drop=max_drop, max_p90_ms=max_p90_ms)
    page = view.page(results, verdicts, max_drop, max_p90_ms)
    return template.render(page=page, made=made_by(), created=now())

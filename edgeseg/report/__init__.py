"""`edgeseg report`: everything a folder holds, on one page that needs no network, no script and no other file."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.files import write_text
from edgeseg.report.layout import lay_out
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
    from edgeseg.report import view

    found = (results.artifacts, results.runs, results.records, results.failures, results.evaluations, results.searches)
    if not any(found):
        why = f" ({results.problems[0]})" if results.problems else ""
        raise EdgesegError(f"{results.folder} holds no run, artifact, record, evaluation or search to report{why}")
    verdicts = judge(results, max_drop=max_drop, max_p90_ms=max_p90_ms)
    return lay_out("page.html.j2", view.page(results, verdicts, max_drop, max_p90_ms))

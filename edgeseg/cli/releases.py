"""`edgeseg compare` of two folders of records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeseg.cli.app import emit, is_artifact, say, table
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.runtimes.record import Record


def holds_records(folder: Path) -> bool:
    """Whether a folder is one of records, and neither an artifact nor a run."""
    from edgeseg.runs import is_run

    return folder.is_dir() and not is_run(folder) and not (folder / "manifest.json").exists()


def of_releases(old: Path, new: Path, as_json: bool) -> None:
    """Compare what two folders of records hold; the exit code says whether anything became slower."""
    from edgeseg import schema
    from edgeseg.runtimes.releases import compare_releases

    for folder in (old, new):
        if not holds_records(folder):
            is_artifact(folder)
    found = compare_releases(old, new)
    rows = [
        [
            pair.found.verdict,
            pair.what,
            None if pair.found.ratio is None else f"{pair.found.ratio:.3f}",
            None if pair.found.low is None else f"{pair.found.low:.3f} to {pair.found.high:.3f}",
        ]
        for pair in found.pairs
    ]
    columns = ["verdict", "what", "time, new / old", "95 %"]
    emit(schema.dump(found), as_json, table(f"{new} against {old}", columns, rows, right=(2, 3), whole=(0, 2, 3)))
    lines = [f"{pair.what}: {line}" for pair in found.pairs for line in pair.found.why]
    lines += [f"{what}: only in {old}" for what in found.only_old]
    lines += [f"{what}: only in {new}" for what in found.only_new]
    for line in [*lines, *found.problems]:
        say(line)
    raise typer.Exit(found.exit_code)


def record_in(path: Path) -> Record:
    """The record in a file."""
    from edgeseg.runtimes.releases import stored

    record = stored(path)
    if record is None:
        raise EdgesegError(f"{path} is no record of a measurement; give one that `edgeseg bench` wrote")
    return record

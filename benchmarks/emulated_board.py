"""What artifacts draw on an emulated Raspberry Pi behind a real sshd, pixel by pixel against this machine.

    python -m benchmarks.emulated_board ARTIFACT... --data camvid:PATH [--count 2] [--out benchmarks/results/emulated_board.md]

The board is `emulated://pi5`, made when it is not there; the agent runs in it, brought by ssh as to a board that is there. Nothing is timed:
emulated times mean nothing. Exit codes: 0 all draw the same, 2 one does not, 1 and 5 as everywhere.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.loopback import served
from edgeseg.artifact import Artifact
from edgeseg.data import load_data
from edgeseg.errors import EdgesegError
from edgeseg.files import write_text
from edgeseg.parity import choose
from edgeseg.runtimes.devices import DEVICES
from edgeseg.runtimes.devices.agreement import Agreement, agree, refusal
from edgeseg.runtimes.devices.ssh import ssh
from edgeseg.runtimes.devices.sysroot import assemble, sysroot

BOARD = "pi5"
COLUMNS = ("student", "runtime", "precision", "pixels", "others", "the same", "at least", "")


@contextmanager
def board_over_ssh(folder: Path) -> Iterator[str]:
    """The address of the emulated board behind an sshd whose files are in `folder`.

    Raises:
        MissingTool: what it takes is not installed. EdgesegError: the board cannot be made.
    """
    system = sysroot(BOARD)
    assemble(system, lambda line: print(line, file=sys.stderr))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(system.command([str(system.python())]))} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    (folder / "sshd").mkdir()
    with served(folder / "sshd") as server:
        entry = server.entry(folder, python=str(python))
        DEVICES._entries[BOARD] = lambda address, _: ssh(address, entry)
        try:
            yield f"{BOARD}://ssh"
        finally:
            del DEVICES._entries[BOARD]


def agreements(
    folders: Sequence[Path], data: str, split: str | None, count: int
) -> Iterator[tuple[Artifact, Agreement]]:
    """Each artifact, and how far the board draws what this machine draws, on `count` images of its size."""
    images = load_data(data)
    with tempfile.TemporaryDirectory() as name, board_over_ssh(Path(name)) as device:
        for folder in folders:
            artifact = Artifact.open(folder)
            where, pictures = choose(images, split, count, artifact.size)
            yield artifact, agree(artifact, device, where, [each.image for each in pictures])


def cells(artifact: Artifact, found: Agreement) -> tuple[str, ...]:
    """A row under `COLUMNS`."""
    return (
        artifact.manifest.student.name,
        found.runtime,
        found.precision,
        f"{found.pixels:,}",
        f"{found.different:,}",
        f"{found.same:.4%}",
        f"{found.limit:.2%}",
        "met" if found.passed else "missed",
    )


def page(rows: Sequence[tuple[str, ...]], found: Agreement, count: int) -> str:
    """The table as a Markdown page."""
    table = "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ("---", "---", "---", *["---:"] * 4, "---"), *rows))
    where = re.sub(r":.*(?=\[)", "", found.images)  # not where it lies here
    return (
        "# An emulated Raspberry Pi behind ssh\n\n"
        f"Made by `python -m benchmarks.emulated_board`: labels on {found.model} ({found.cpu}), emulated by qemu and reached over a real "
        f"sshd, against x86, on {where}, images: {count}. Its masks mean something, its times nothing, so there are none.\n\n{table}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, print, keep; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument("--data", default="synthetic", help="as `edgeseg verify` takes it")
    parser.add_argument("--split", help="of the data")
    parser.add_argument("--count", type=int, default=2, help="images; one takes seconds there")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to keep the table")
    options = parser.parse_args(arguments)
    rows, refusals = [], []
    try:
        for artifact, found in agreements(options.artifacts, options.data, options.split, options.count):
            rows.append(cells(artifact, found))
            print("  ".join(rows[-1]), flush=True)
            refusals += [refused] if (refused := refusal(found)) else []
            if options.out:  # after each: the next takes minutes
                write_text(options.out, page(rows, found, options.count))
    except EdgesegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for refused in refusals:
        print(f"error: {refused}", file=sys.stderr)
    return refusals[0].exit_code if refusals else 0


if __name__ == "__main__":
    sys.exit(main())

"""`edgeseg VERB`: what holds for every verb. Results go to stdout, everything said on the way goes to stderr.

Exit codes: 0 ok, 1 the caller's mistake, 2 parity failed, 3 accuracy gate, 4 budget, 5 something is missing,
6 measurement invalid, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgeseg.errors import EdgesegError, import_trusted

app = typer.Typer(
    name="edgeseg",
    help="Train compact segmentation students, export them with proof, measure them honestly, and say SHIP or DON'T SHIP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# no markup: what stands in square brackets, as in `edgeseg[openvino]`, is part of the text
talk = Console(stderr=True, highlight=False, markup=False)
show = Console(highlight=False, markup=False)

# typer carries its own copy of click: the common ancestor of its usage errors has no public name
_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

TRUSTED: list[str] = []
"""The modules named by `--trust`, for the processes that this one starts."""

_printed = False  # whether this command has printed its JSON document

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DATA = (
    "KIND:PATH. Semantic: folder, camvid, cityscapes, ade20k, voc, coco_stuff, coco_panoptic, hf, shards, or synthetic, which needs "
    "no path; promptable: objects, regions, coco, lvis, sa1b, dis5k, or synthetic_objects."
)
"""What a data set is called, for `--data`."""

Size = Annotated[str | None, typer.Option(metavar="HxW", help="Height x width, e.g. 360x480.")]


@app.callback()
def everywhere(
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Import this module: a run of a network in it may be loaded."),
    ] = None,
) -> None:
    """Train compact segmentation students, export them with proof, measure them honestly, and say SHIP or DON'T SHIP."""
    TRUSTED[:] = trust or []
    for module in TRUSTED:
        import_trusted(module)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. An error is one line on stderr, and a JSON document too when `--json` was asked for."""
    global _printed
    words, _printed = list(sys.argv[1:] if arguments is None else arguments), False
    try:
        code = typer.main.get_command(app).main(words, prog_name="edgeseg", standalone_mode=False)
    except EdgesegError as error:
        return fail(str(error), error.exit_code, words)
    except _USAGE as error:
        return fail(error.format_message(), 1, words)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", 130, words)
    except RuntimeError as error:
        if (what := _lost_process(error)) is None:
            raise
        return fail(what, 1, words)
    except BrokenPipeError:  # `edgeseg models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}", 1, words)
    return code if isinstance(code, int) else 0


def _lost_process(error: RuntimeError) -> str | None:
    """What to say when PyTorch tells, in the middle of anything, that another process is gone; nothing of other errors."""
    if "torch" not in sys.modules:
        return None
    from edgeseg.train.processes import died, tells_of_a_death

    if "DataLoader worker" in str(error):  # from a signal handler
        return "a data-loading process was killed, most likely for memory; use fewer workers or a smaller batch"
    return died() if tells_of_a_death(error) else None


def fail(message: str, code: int, words: Sequence[str]) -> int:
    """Say what went wrong and return the exit code."""
    say(message, "error:", "bold red")
    # a result that is printed stays the one document, and of processes that learn together one prints
    if "--json" in words and not _printed and os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stdout.write(json.dumps({"error": message, "exit_code": code}) + "\n")
    return code


def say(line: str, head: str = "note:", style: str = "yellow", to: Console = talk) -> None:
    """A line after a coloured head."""
    to.print(Text.assemble((head, style), " ", line), soft_wrap=True)


def emit(document: Any, as_json: bool, *tables: Table | Text | str) -> None:
    """The result: the JSON document, or the tables and lines a person reads."""
    global _printed
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        _printed = True
        return
    for table in tables:
        show.print(table, soft_wrap=not isinstance(table, Table))


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    right: Sequence[int] = (),
    whole: Sequence[int] = (),
) -> Table:
    """A table; the columns in `right` hold numbers, those in `whole`, which have to be short, are never broken."""
    result = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        result.add_column(
            column, justify="right" if index in right else "left", overflow="fold", no_wrap=index in whole
        )
    for row in rows:
        result.add_row(*("-" if cell is None else cell if isinstance(cell, Text) else str(cell) for cell in row))
    return result


@contextmanager
def progress(what: str, total: float | None = None, unit: bool = True) -> Iterator[Callable[[float, float], None]]:
    """A bar on stderr, a line where that is no terminal; the function given takes (done, all)."""
    if not talk.is_terminal:
        talk.print(what, soft_wrap=True)
        yield lambda done, all_: None
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *([MofNCompleteColumn()] if unit else []),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, all_: bar.update(task, completed=done, total=all_)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A counter of work whose end is not known; the function given takes how much more is done."""
    if not talk.is_terminal:
        talk.print(what, soft_wrap=True)
        yield lambda more: None
        return
    with Progress(
        TextColumn("{task.description}", markup=False), TextColumn("{task.completed}"), console=talk, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda more: bar.advance(task, more)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`360x480` to (360, 480)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise EdgesegError(f"size {text!r} is not HEIGHTxWIDTH, e.g. 360x480")
    return int(parts[0]), int(parts[1])


def is_artifact(path: Path) -> bool:
    """True for an exported folder, False for a run; anything else is an error."""
    if (path / "manifest.json").exists():
        return True
    if (path / "model.json").exists() or (path / "checkpoint.safetensors").exists():
        return False
    what = "does not exist" if not path.exists() else "is neither a run (model.json) nor an artifact (manifest.json)"
    raise EdgesegError(f"{path} {what}")

"""`edgeseg embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import DATA, TRUSTED, Json, app, emit, parse_size, progress
from edgeseg.cli.distill import TeacherClasses, TeacherWeights
from edgeseg.cli.export import words
from edgeseg.errors import EdgesegError

SHOWN = 10
"""Problems that an error lists; the others are counted."""


@app.command()
def embed(
    teacher: Annotated[
        str, typer.Option(help="A run, or a network from elsewhere, e.g. transformers:facebook/sam-vit-huge.")
    ],
    data: Annotated[str, typer.Option(help=f"{DATA} shards:PATH may be tar files of photos.")],
    out: Annotated[Path, typer.Option(help="The folder of the shards.")],
    split: Annotated[str | None, typer.Option(help="What is learned from by default.")] = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard, unless the data has its own.")] = 256,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="That a promptable teacher's images are fitted into.")
    ] = None,
    teacher_weights: TeacherWeights = None,
    teacher_classes: TeacherClasses = "",
    check: Annotated[
        bool, typer.Option("--check", help="Make nothing: read all shards and say what is not whole.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local (also under torchrun), or ray.")] = "local",
    processes: Annotated[int, typer.Option(min=1, help="Processes of ray.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Images that a semantic teacher looks at together.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read images ahead.")] = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the teacher.")] = None,
    as_json: Json = False,
) -> None:
    """Write down once what a teacher makes of every image: tar shards for `distill --teacher`. Stopped, it goes on.

    Example: edgeseg embed --teacher runs/large --data camvid:PATH --out shards
    """
    import torch

    from edgeseg.embed import Job, problems
    from edgeseg.embed.engines import ENGINES, How, place

    if threads:
        torch.set_num_threads(threads)
    work = ENGINES[engine]
    weights = str(teacher_weights) if teacher_weights else None
    names = tuple(words(teacher_classes))
    job = Job(teacher, data, split, out, per_shard, bool(TRUSTED), parse_size(size), weights, names, batch, threads)
    how = How(workers, processes, tuple(TRUSTED))
    total, done, made = len(job.split), 0, 0
    with progress(f"{'checking' if check else 'embedding'} {total} images", total) as bar:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            bar(done, total)

        found = problems(job, advance) if check else []
        made = 0 if check else work(job, how, advance)
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise EdgesegError(
            "\n  ".join(
                [f"{out}: {len(found)} problems; remove the tar files named and embed again:", *found[:SHOWN], *more]
            )
        )
    if place()[0] == 0:  # one process talks
        document = {"out": str(out), "images": total, "shards": len(job.shards), "made": made, "checked": check}
        what = f"{len(job.shards)} shards are whole" if check else f"{made} of {len(job.shards)} shards made here"
        emit(document, as_json, f"{out}: {total} images, {what}")

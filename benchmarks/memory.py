"""How much memory the loader and `edgeseg embed` have had by so many images: `python -m benchmarks.memory --out benchmarks/results`.

Small photos as JPEG files, read from the disk each time; a few of them, linked under as many names as there are to be images.
Each job runs in a process of its own. Counted is the most that it and its loader's workers ever held, as Linux keeps it (VmHWM).
Exit codes: 0 flat, 4 it grew.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.ratio import fresh
from edgeseg.errors import BudgetExceeded
from edgeseg.files import write_text
from edgeseg.provenance import now, versions
from edgeseg.registry import Registry

MARKS = (1000, 5000, 10000)
"""Images after which is looked."""

LIMIT = 1.05
"""At most this times what it was at the first mark."""

SIZE, PHOTOS, STUDENT = (96, 128), 8, "lraspp_mobilenet_v3_small"


def photos(folder: Path, count: int, size: tuple[int, int]) -> str:
    """Images and masks in `folder`; the data's name."""
    from edgeseg.data import load_data
    from edgeseg.pictures import save_picture

    split = load_data(f"synthetic:size={size[0]}x{size[1]},train={PHOTOS},val=1,test=1").split("train")
    for part, many in (("train", count), ("val", 1)):
        for index in range(many):
            image, mask = (
                folder / part / kind / f"{index:06d}.{end}" for kind, end in (("images", "jpg"), ("masks", "png"))
            )
            if index < PHOTOS:
                save_picture(image, split.image(index))
                save_picture(mask, split[index][1])
            else:
                for file in (image, mask):
                    os.link(file.with_stem(f"{index % PHOTOS:06d}"), file)
    return f"folder:{folder}"


def most() -> float:
    """Megabytes (10^6 bytes) that this process and those below it held at their highest."""
    this, total = psutil.Process(), 0
    for process in (this, *this.children(recursive=True)):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return total * 1024 / 1e6


def loader(data: str, folder: Path, marks: Sequence[int]) -> list[float]:
    """Batches of four, made by one worker, nothing kept decoded."""
    from edgeseg.data import load_data
    from edgeseg.data.loader import Batches
    from edgeseg.train.recipe import Recipe

    batch = 4
    batches = Batches(
        load_data(data).split("train"), Recipe().augment_for(SIZE), batch, seed=0, workers=1, cache_bytes=0
    )
    found: list[float] = []
    for step, _ in enumerate(batches.epoch(0), 1):
        if step * batch >= marks[len(found)]:
            found.append(most())
            if len(found) == len(marks):
                break
    return found


def embed(data: str, folder: Path, marks: Sequence[int]) -> list[float]:
    """A teacher's logits of every image, in shards."""
    import torch

    from edgeseg.data import load_data
    from edgeseg.embed import Job
    from edgeseg.embed.work import work
    from edgeseg.runs import save
    from edgeseg.train.loop import build_student

    torch.set_num_threads(1)
    save(build_student(STUDENT, load_data(data)).eval(), folder / "run")
    found: list[float] = []
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if len(found) < len(marks) and done >= marks[len(found)]:
            found.append(most())

    work(Job(str(folder / "run"), data, "train", folder / "out"), workers=2, advance=advance)
    return found


JOBS: Registry[Callable[[str, Path, Sequence[int]], list[float]]] = Registry("job")
"""Name -> megabytes at each mark."""
JOBS.add("loader", loader)
JOBS.add("embed", embed)


def document(found: dict[str, list[float]], marks: Sequence[int], size: tuple[int, int]) -> str:
    """The table."""
    lines = [
        f"| | {' | '.join(f'{mark:,}' for mark in marks)} | last / first | |",
        "| --- |" + " ---: |" * (len(marks) + 1) + " --- |",
    ]
    for name, row in found.items():
        growth = row[-1] / row[0]
        said = "flat" if growth <= LIMIT else "grows"
        lines.append(f"| {name} | {' | '.join(f'{each:.0f}' for each in row)} | {growth:.3f} | {said} |")
    tools = ", ".join(f"{name} {version}" for name, version in versions("torch", "numpy").items())
    return (
        "# Memory\n\n`python -m benchmarks.memory --out benchmarks/results`: the most that a job ever held by so many images of "
        f"{size[1]}x{size[0]},\nin MB, interpreter and libraries included, what two processes share counted twice; flat: at most {LIMIT} times as much at the last as at the first. "
        f"`embed` has {STUDENT} for a teacher.\n\n" + "\n".join(lines) + f"\n\n{platform.machine()}; {tools}; {now()}\n"
    )


def measure(marks: Sequence[int] = MARKS, size: tuple[int, int] = SIZE) -> dict[str, list[float]]:
    """Every job's megabytes."""
    with tempfile.TemporaryDirectory() as name:
        data = fresh(photos, Path(name) / "data", max(marks), size)
        return {job: fresh(JOBS[job], data, Path(name) / job, marks) for job in JOBS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to keep memory.md")
    options = parser.parse_args(arguments)
    found = measure()
    text = document(found, MARKS, SIZE)
    if options.out:
        write_text(options.out / "memory.md", text)
    print(text)
    return BudgetExceeded.exit_code * any(row[-1] > LIMIT * row[0] for row in found.values())


if __name__ == "__main__":
    sys.exit(main())

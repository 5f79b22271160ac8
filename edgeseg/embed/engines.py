"""Who does the work: this process, one of those that torchrun started, or Ray's. An engine is a function and its name here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from edgeseg.embed.job import Job
from edgeseg.embed.work import work
from edgeseg.errors import EdgesegError, need
from edgeseg.registry import Registry
from edgeseg.students.sources import is_source


@dataclass(frozen=True)
class How:
    """How the work is done; none of it changes what is made.

    workers:   threads that read images ahead.
    processes: Ray's; the others take theirs from torchrun.
    trusted:   modules to import first, so that a run of a network in them may be loaded.
    """

    workers: int = 2
    processes: int = 2
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise EdgesegError(f"processes must be at least 1, got {self.processes}")


Advance: TypeAlias = Callable[[int], None]
"""Is told of images that are done."""


def local(job: Job, how: How, advance: Advance) -> int:
    """This process, or under torchrun its share; how many shards it made."""
    return work(job, *place(), device(), how.workers, advance)


def place() -> tuple[int, int]:
    """Which process this is of how many, as torchrun says."""
    rank, world = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise EdgesegError(f"RANK {rank!r} of WORLD_SIZE {world!r} is no place among processes; leave both to torchrun")
    return int(rank), int(world)


def device() -> str:
    """The GPU of this process, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def ray(job: Job, how: How, advance: Advance) -> int:
    """Processes of Ray (`cluster` extra), on this machine or the cluster at RAY_ADDRESS, which sees the same paths; how many shards they made.

    A process that dies is begun again by Ray, and goes on where it stopped.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports itself to its makers
    library = need("ray")
    import torch

    library.init(ignore_reinit_error=True, log_to_driver=False)
    resources = {"num_gpus": 1} if torch.cuda.is_available() else {"num_cpus": job.threads or 1}
    share = library.remote(max_retries=3, **resources)(_share)
    job.begin()
    teacher = job.teacher if is_source(job.teacher) else str(Path(job.teacher).resolve())
    sent = replace(job, teacher=teacher, out=job.out.resolve())  # without what `job` has read by now
    left = [share.remote(sent, how, rank) for rank in range(how.processes)]
    made = 0
    try:
        while left:
            done, left = library.wait(left)
            shards, images = library.get(done[0])
            made += shards
            advance(images)
    except library.exceptions.RayTaskError as error:
        if isinstance(error.cause, EdgesegError):
            raise EdgesegError(str(error.cause)) from None
        raise
    finally:
        for each in left:
            library.cancel(each, force=True)
    return made


def _share(job: Job, how: How, rank: int) -> tuple[int, int]:
    """The shards that one of Ray's processes made, and the images in its share."""
    import torch

    from edgeseg.errors import import_trusted

    torch.set_num_threads(job.threads or 1)
    for module in how.trusted:
        import_trusted(module)
    images: list[int] = []
    made = work(job, rank, how.processes, device(), how.workers, images.append)
    return made, sum(images)


ENGINES: Registry[Callable[[Job, How, Advance], int]] = Registry("engine")
"""Name -> what does the work of a job."""
ENGINES.add("local", local)
ENGINES.add("ray", ray)

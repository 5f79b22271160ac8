"""One process's share of the work: images are read ahead by threads, the teacher looks at them, a thread writes behind."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edgeseg.data.base import Image
from edgeseg.data.loader import ahead
from edgeseg.embed.job import ARRAY, NOTE, Job, Shard
from edgeseg.errors import EdgesegError
from edgeseg.files import aside, clear_parts, held
from edgeseg.segment import StudentSegmenter
from edgeseg.students import Promptable, Semantic, Student
from edgeseg.students.assisted import is_assisted
from edgeseg.students.maps import EMBEDDING, kept, staged, stages
from edgeseg.tars import Add, writing

Half = NDArray[np.float16]


def brief(device: torch.device) -> AbstractContextManager[Any]:
    """How a frozen teacher computes, whatever its student does: on a GPU in bfloat16."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


class Frozen:
    """A run in evaluation mode, and what it makes of images: arrays `[B, C, h, w]`."""

    def __init__(self, student: Student, size: tuple[int, int] | None) -> None:
        self.student = student.eval().requires_grad_(requires_grad=False)
        self.size = size

    @torch.inference_mode()
    def __call__(self, images: list[Image]) -> Half:
        """float16 arrays of images of one size.

        Raises:
            EdgesegError: a number that float16 has no room for.
        """
        with brief(next(self.student.parameters()).device):
            if isinstance(self.student, Promptable):
                assert self.size is not None
                fitted = _Fitted(self.student, self.size)
                made = torch.cat([fitted.begin(image)[0] for image in images])
            else:
                assert isinstance(self.student, Semantic)
                made = self.student.low_logits(self.batch(images))
        half: Half = made.half().cpu().numpy()
        if not np.isfinite(half).all():
            raise EdgesegError(
                f"{self.student.name} makes numbers up to {float(made.abs().max()):.3g} here; float16 ends at 65504, or they are none"
            )
        return half

    def batch(self, images: list[Image]) -> torch.Tensor:
        """Images as a semantic teacher takes them: normalised, padded with the mean colour."""
        device = next(self.student.parameters()).device
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device)
        height, width = stacked.shape[-2:]
        return F.pad(
            self.student.normalise(stacked), (0, -width % self.student.multiple, 0, -height % self.student.multiple)
        )

    def seen(self, image: Image) -> tuple[int, int]:
        """Height and width of what the array of an image covers, the padding included, in pixels of the image."""
        height, width = image.shape[:2]
        if self.size is not None:
            scale = max(height / self.size[0], width / self.size[1])
            return round(self.size[0] * scale), round(self.size[1] * scale)
        return height + -height % self.student.multiple, width + -width % self.student.multiple


class _Fitted(StudentSegmenter):
    """A promptable network, and of images fitted into its size what it has for their embedding."""

    def encode(self, canvas: Image) -> torch.Tensor:  # type: ignore[override]
        """`[1, C, h, w]`."""
        keys, seen = (EMBEDDING,), self._student.prepare(canvas)
        with kept(self._student, keys, seen) as maps:
            if staged(self._student, keys):
                return stages(self._student, keys, self._student.forward_features(seen))[EMBEDDING]
            self._student.encode(seen)
        return maps[EMBEDDING]


def work(
    job: Job,
    rank: int = 0,
    world: int = 1,
    device: str = "cpu",
    workers: int = 2,
    advance: Callable[[int], None] = lambda count: None,
) -> int:
    """Make every `world`-th shard from the `rank`-th on, but those that are there already; how many were made.

    `advance` is told of images that are done. What a killed process left of a shard is removed when it is made anew.
    """
    job.begin()
    mine = job.shards[rank::world]
    todo = [shard for shard in mine if not (job.out / shard.name).exists()]
    advance(sum(shard.stop - shard.start for shard in mine) - sum(shard.stop - shard.start for shard in todo))
    if not todo:
        return 0
    student = job.network
    if is_assisted(student):
        raise EdgesegError(
            f"{job.teacher} has to be shown the labels along with the picture; distill from the run itself"
        )
    teacher = Frozen(student.to(device), job.manifest().size)
    make(job, teacher, todo, workers, advance)
    return len(todo)


def make(job: Job, teacher: Frozen, todo: list[Shard], workers: int, advance: Callable[[int], None]) -> None:
    """Make shards, one after the other; what is read ahead and written behind never waits for the end of one."""
    images = ahead(job.split.image, [index for shard in todo for index in range(shard.start, shard.stop)], workers)
    with ThreadPoolExecutor(1) as behind:
        for shard in todo:
            keys = iter(job.keys[shard.start : shard.stop])
            clear_parts(job.out / shard.name)
            with aside(job.out / shard.name) as part, held(part), writing(part) as add:
                written: Future[None] = behind.submit(lambda: None)
                for some in batches(islice(images, shard.stop - shard.start), job.batch):
                    made = teacher(some)
                    written.result()  # one batch is written behind the next, so that a slow disk holds the teacher back
                    notes = [
                        {"image": image.shape[:2], "seen": teacher.seen(image), "pixels": pixels_of(image)}
                        for image in some
                    ]
                    written = behind.submit(put, add, list(islice(keys, len(some))), notes, made)
                    advance(len(some))
                written.result()


def batches(images: Iterator[Image], most: int) -> Iterator[list[Image]]:
    """Images that follow each other and are of one size, `most` at a time."""
    for _, group in groupby(images, lambda image: image.shape):
        while some := list(islice(group, most)):
            yield some


def pixels_of(image: Image) -> str:
    """What tells an image from others of its name: of the SHA-256 of its pixels the first 16 digits."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def put(add: Add, keys: list[str], notes: list[dict[str, Any]], made: Half) -> None:
    """Write the two files of each image."""
    for key, note, array in zip(keys, notes, made, strict=True):
        stored = io.BytesIO()
        np.lib.format.write_array(stored, array, allow_pickle=False)
        add(key + ARRAY, stored.getvalue())
        digest = hashlib.sha256(stored.getvalue()).hexdigest()
        add(key + NOTE, json.dumps({**note, "sha256": digest}).encode("ascii"))

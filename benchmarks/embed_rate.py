"""`edgeseg embed`, from JPEG files to shards on the disk, against the teacher's forward pass on images that are there already."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.ratio import Finding, Logs, burst, finding, fresh, in_turns
from edgeseg.errors import ParityFailed

LIMIT = 1 / 0.95
"""Ninety-five images are embedded in the time in which the bare teacher looks at a hundred."""

TEACHER, SIZE, IMAGES, PAIRS = "ddrnet23", (360, 480), 20, 10


def contest(teacher: str, size: tuple[int, int], images: int, pairs: int) -> Logs:
    """Log-ratios in this process."""
    import torch

    from edgeseg.data import load_data
    from edgeseg.embed import Embedded, Job
    from edgeseg.embed.work import Frozen, make
    from edgeseg.pictures import save_picture
    from edgeseg.runs import save
    from edgeseg.train.loop import build_student

    torch.set_num_threads(1)
    scenes = load_data(f"synthetic:size={size[0]}x{size[1]},train={images},val=1,test=1")
    split = scenes.split("train")
    pixels = [split.image(index) for index in range(images)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, image in enumerate(pixels):
            for part in ("train", "val"):
                save_picture(folder / part / "images" / f"{index:03d}.jpg", image)
                save_picture(folder / part / "masks" / f"{index:03d}.png", split[index][1])
        save(build_student(teacher, scenes).eval(), folder / "run")
        job = Job(str(folder / "run"), f"folder:{folder}", "train", folder / "out", per_shard=16)
        job.begin()
        frozen = Frozen(build_student(teacher, scenes), None)
        seen = [job.split.image(index) for index in range(images)]

        def embed() -> None:
            for shard in job.shards:
                (job.out / shard.name).unlink(missing_ok=True)
            make(job, frozen, job.shards, workers=2, advance=lambda count: None)

        def bare() -> None:
            with torch.inference_mode():
                for image in seen:
                    frozen.student.low_logits(frozen.batch([image]))  # type: ignore[operator]

        embed()
        embedded = Embedded(job.out)
        looks = [embedded.look(place) for place in embedded.places(job.split.names)]
        if not all(np.array_equal(look.array, frozen([image])[0]) for look, image in zip(looks, seen, strict=True)):
            raise ParityFailed("embed_rate: a shard does not hold what the teacher makes; no speed to compare")
        logs = in_turns(burst(embed), burst(bare), pairs)
        shutil.rmtree(job.out)
    return logs


def findings(
    teacher: str = TEACHER, size: tuple[int, int] = SIZE, images: int = IMAGES, pairs: int = PAIRS
) -> list[Finding]:
    """The time to embed over that of the forward pass alone, one thread of PyTorch."""
    name = f"embedding {images} JPEGs / bare forward pass, {teacher} fp32 {size[0]}x{size[1]}, 1 thread"
    return [finding(name, [fresh(contest, teacher, size, images, pairs)], LIMIT)]

"""The Python face: the same functions the command line calls."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeseg.artifact import MANIFEST, Artifact
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.ledger import Ledger
    from edgeseg.runtimes.record import Record
    from edgeseg.students import Student


def models() -> list[str]:
    """The names of the students."""
    from edgeseg.students import STUDENTS

    return list(STUDENTS)


def load(path: Path | str, trust: bool = False) -> Student | Artifact:
    """A run or an artifact; both have the same `predict`. `trust` lets a run import the module of the network it names."""
    if (Path(path) / MANIFEST).exists():
        return Artifact.open(path)
    from edgeseg.runs import load_run

    return load_run(path, trust)


def verify(artifact: Artifact, against: Student, images: Sequence[NDArray[np.uint8]] | None = None) -> Ledger:
    """The parity ledger of an artifact against the student it was made from, on RGB `images [H, W, 3]` or generated scenes.

    The ledger is stored in the artifact's manifest too.
    """
    from edgeseg.parity import Picture, picture, verify_on, verify_with

    if images is None:
        verified = verify_with(artifact, against)
    else:
        if not images:
            raise EdgesegError("verify needs at least one image, got an empty list")
        blank = [np.zeros(image.shape[:2], np.uint8) for image in images]
        pairs = zip(images, blank, strict=True)
        chosen = [picture(f"image {i}", *pair, artifact.size) for i, pair in enumerate(pairs, 1)]
        verified = verify_on(artifact, against, "given images", [Picture(one.name, one.image, None) for one in chosen])
    ledger = verified.manifest.ledger
    assert ledger is not None
    return ledger


def bench(
    subject: Artifact | Path | str,
    device: str = "local",
    threads: int = 1,
    protocol: str = "quick",
    e2e: bool = False,
    image: NDArray[np.uint8] | None = None,
) -> Record:
    """Measure an artifact, or a run in eager PyTorch, in a fresh process, on this machine or on `ssh://user@host`.

    Raises:
        MissingTool: the device, or the artifact's runtime there.
        EdgesegError: a protocol that does not exist.
        InvalidMeasurement: the measuring process died. A record that only may not be quoted is returned, and says so.
    """
    from edgeseg.pictures import save_picture
    from edgeseg.runtimes.measure import measure
    from edgeseg.runtimes.protocol import parse

    with tempfile.TemporaryDirectory() as folder:
        file = None
        if image is not None:
            file = Path(folder) / "image.png"
            save_picture(file, image)
        return measure(subject, protocol=parse(protocol), threads=threads, e2e=e2e, image=file, device=device)

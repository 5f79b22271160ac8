"""Label files: pictures give an id map and an overlay, videos an overlaid video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.artifact import Artifact
from edgeseg.data.folders import read_image
from edgeseg.errors import EdgesegError
from edgeseg.files import aside
from edgeseg.metrics import VOID
from edgeseg.pictures import Rgb, overlay, save_picture
from edgeseg.students import Student

VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
RATES = 0.1, 1000.0
"""Frames per second that are believed; MPEG-4 takes no more than 65535, and some files report ticks of their clock."""

USUAL_RATE = 25.0
"""For a file that reports none, or one that is not to be believed."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prompt:
    """What a promptable student is asked for: clicks (x, y) or (x, y, 0) on the background, and a box."""

    clicks: Sequence[tuple[float, ...]] = ()
    box: tuple[float, float, float, float] | None = None

    def __bool__(self) -> bool:
        return bool(self.clicks) or self.box is not None


def predict_file(
    loaded: Student | Artifact,
    file: Path,
    out: Path,
    progress: Progress | None = None,
    prompt: Prompt | None = None,
    size: tuple[int, int] | None = None,
) -> list[Path]:
    """The files written into `out`: `NAME-labels.png` and `NAME-overlay.jpg`, or `NAME-overlay.mp4`.

    size: what a promptable student was trained at; photos are fitted into it.
    """
    if not file.is_file():
        raise EdgesegError(f"{file} does not exist" if not file.exists() else f"{file} is not a file; name the images")
    card = loaded if isinstance(loaded, Student) else loaded.manifest.student
    if card.task == "semantic" and prompt:
        raise EdgesegError(f"{card.name} is semantic: it labels every pixel and takes no clicks or boxes")
    if file.suffix.lower() in VIDEOS:
        if card.task == "promptable":
            raise EdgesegError(f"{file} is a video, and a click belongs to one picture; give images to {card.name}")
        return [_video(loaded, file, out / f"{file.stem}-overlay.mp4", card.palette, progress)]
    image = read_image(file)
    if card.task == "semantic":
        labels = loaded.predict(image)
        shown = overlay(image, labels, card.palette)
    else:
        labels = ask(loaded, image, prompt or Prompt(), size)
        shown = overlay(image, np.where(labels, labels, np.uint8(VOID)), card.palette)
    written = [out / f"{file.stem}-labels.png", out / f"{file.stem}-overlay.jpg"]
    save_picture(written[0], labels)
    save_picture(written[1], shown)
    return written


def ask(
    loaded: Student | Artifact, image: NDArray[np.uint8], prompt: Prompt, size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """The mask of 0 and 1; without a prompt, of what catches the eye."""
    from edgeseg.segment import segmenter
    from edgeseg.students.promptable import check_inside, prompt_tensors
    from edgeseg.students.saliency import salient_point

    clicks = list(prompt.clicks) or ([] if prompt.box else [salient_point(image)])
    places = [(click[0], click[1]) for click in clicks]
    signs = [int(click[2]) if len(click) == 3 else 1 for click in clicks]
    check_inside(image.shape[:2], *prompt_tensors(places, signs, prompt.box))
    asked = segmenter(loaded, size)
    boxes = np.array([prompt.box]) if prompt.box else None
    mask = asked.masks(asked.begin(image), np.array(places).reshape(1, -1, 2), np.array([signs]), boxes)
    return mask[0]


def _video(
    loaded: Student | Artifact, file: Path, target: Path, palette: Sequence[Rgb], progress: Progress | None
) -> Path:
    import cv2

    reader = cv2.VideoCapture(str(file))
    count, rate = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), reader.get(cv2.CAP_PROP_FPS)
    if not RATES[0] <= rate <= RATES[1]:  # nan too
        rate = USUAL_RATE
    size = int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))
    refused = EdgesegError(
        f"{file} is {size[0]}x{size[1]} at {rate:g} frames a second, which OpenCV here cannot write as MPEG-4 to {target}; "
        "convert it to another size, or give its frames as pictures"
    )
    done = 0
    with aside(target) as part:
        named = part.with_suffix(".mp4")  # the writer chooses the container by the name's ending
        writer = cv2.VideoWriter(str(named), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        try:
            while (frame := reader.read())[0]:
                if not writer.isOpened():  # it would take every frame and write none
                    raise refused
                image = cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)
                shown = overlay(image, loaded.predict(image), palette)
                writer.write(cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
                done += 1
                if progress:
                    progress(done, max(count, done))
            writer.release()
            if not done:
                raise EdgesegError(f"{file} is no video that can be decoded; not one frame came out of it")
            if not named.exists() or not named.stat().st_size:
                raise refused
            named.replace(part)
        finally:
            reader.release()
            writer.release()
            named.unlink(missing_ok=True)
    return target

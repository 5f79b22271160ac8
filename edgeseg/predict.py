"""Label files: pictures give an id map and an overlay, videos an overlaid video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeseg.artifact import Artifact
from edgeseg.data.folders import read_image
from edgeseg.errors import EdgesegError
from edgeseg.files import aside
from edgeseg.pictures import Rgb, overlay, save_picture
from edgeseg.students import Student

VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
Progress = Callable[[int, int], None]


def predict_file(loaded: Student | Artifact, file: Path, out: Path, progress: Progress | None = None) -> list[Path]:
    """The files written into `out`: `NAME-labels.png` and `NAME-overlay.jpg`, or `NAME-overlay.mp4`."""
    if not file.is_file():
        raise EdgesegError(f"{file} does not exist" if not file.exists() else f"{file} is not a file; name the images")
    palette = loaded.palette if isinstance(loaded, Student) else loaded.manifest.student.palette
    if file.suffix.lower() in VIDEOS:
        return [_video(loaded, file, out / f"{file.stem}-overlay.mp4", palette, progress)]
    image = read_image(file)
    labels = loaded.predict(image)
    written = [out / f"{file.stem}-labels.png", out / f"{file.stem}-overlay.jpg"]
    save_picture(written[0], labels)
    save_picture(written[1], overlay(image, labels, palette))
    return written


def _video(
    loaded: Student | Artifact, file: Path, target: Path, palette: Sequence[Rgb], progress: Progress | None
) -> Path:
    import cv2

    reader = cv2.VideoCapture(str(file))
    count, rate = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), reader.get(cv2.CAP_PROP_FPS) or 25.0
    size = int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))
    done = 0
    with aside(target) as part:
        named = part.with_suffix(".mp4")  # the writer chooses the container by the name's ending
        writer = cv2.VideoWriter(str(named), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        try:
            while (frame := reader.read())[0]:
                image = cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)
                shown = overlay(image, loaded.predict(image), palette)
                writer.write(cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
                done += 1
                if progress:
                    progress(done, max(count, done))
        finally:
            reader.release()
            writer.release()
            if named.exists():
                named.replace(part)
        if not done:
            raise EdgesegError(f"{file} is no video that can be decoded; not one frame came out of it")
    return target

"""An artifact: the folder an export leaves, complete in itself, with its proof and its hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.files import inside, read_json, sha256
from edgeseg.manifest import SCHEMA, Manifest

if TYPE_CHECKING:
    from edgeseg.runtimes import Session

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """An exported student in a format of some runtime."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str) -> Artifact:
        """Read an artifact and check its files against their hashes.

        Raises:
            EdgesegError: no manifest, one that does not fit, a file outside the folder, missing, or changed.
        """
        folder = Path(folder)
        artifact = cls(folder, read_manifest(folder))
        if not artifact.manifest.files:
            raise EdgesegError(f"{folder / MANIFEST} names no files; export again")
        for entry in artifact.manifest.files:
            path = inside(folder, entry.path)
            if not path.is_file():
                raise EdgesegError(f"{path} is missing although {MANIFEST} names it; copy the whole folder")
            if sha256(path) != entry.sha256:
                raise EdgesegError(f"{path} was changed after export (SHA-256 differs from {MANIFEST}); export again")
        return artifact

    @property
    def model_file(self) -> Path:
        """The file that the runtime opens."""
        return inside(self.folder, self.manifest.files[0].path)

    @property
    def decoder_file(self) -> Path:
        """The file of a promptable artifact that answers prompts."""
        if self.manifest.decoder is None:
            raise EdgesegError(f"{self.folder} is a semantic artifact: it takes no prompts; use predict")
        return inside(self.folder, self.manifest.decoder.file)

    @property
    def sha256(self) -> str:
        """The hash that records and evaluations know this artifact by."""
        return self.manifest.sha256

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        from edgeseg.runtimes import pixels

        return pixels.size(self.manifest.input)

    @cached_property
    def session(self) -> Session:
        """The artifact, opened in its own runtime."""
        import os

        from edgeseg.runtimes import open_artifact

        return open_artifact(self, threads=os.cpu_count() or 1)

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB `image [H, W, 3]` of any size to its label map `[H, W]`.

        Another size than the artifact takes is resized on the way in (bilinear) and on the way out (nearest).
        """
        from edgeseg.runtimes import pixels
        from edgeseg.students.student import check_rgb

        check_rgb(image)
        if self.manifest.decoder is not None:
            raise EdgesegError(f"{self.folder} is promptable: ask it with segment(image, points, labels, box)")
        taken = pixels.nearest(self.manifest.input, *image.shape[:2])
        labels = pixels.labels(self.session.run(pixels.prepare(image, taken)))
        return labels if labels.shape == image.shape[:2] else pixels.enlarge(labels, *image.shape[:2])

    def segment(
        self,
        image: NDArray[np.uint8],
        points: Sequence[tuple[float, float]] = (),
        labels: Sequence[int] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> NDArray[np.uint8]:
        """The best mask `[H, W]` of 0 and 1 for one object in uint8 RGB `image [H, W, 3]`, which is fitted into the artifact's size.

        points: (x, y) in pixels; `labels` 1 for the object (the default), 0 for the background. Without points or a box
                the click is where the eye would look first.
        """
        from edgeseg.predict import Prompt, ask

        signs = labels if labels is not None else [1] * len(points)
        clicks = [(x, y, float(sign)) for (x, y), sign in zip(points, signs, strict=True)]
        return ask(self, image, Prompt(clicks, box), None)

    def update(self, **changes: object) -> Artifact:
        """The same artifact with other entries in its manifest as it is by now: measuring takes minutes, in which others write too.

        Raises:
            EdgesegError: other files lie there now.
        """
        now = Artifact.open(self.folder)
        if now.sha256 != self.sha256:
            raise EdgesegError(f"{self.folder} was exported again meanwhile; do this once more")
        return now.rewrite(replace(now.manifest, **changes))  # type: ignore[arg-type]

    def rewrite(self, manifest: Manifest) -> Artifact:
        """The same artifact with another manifest, stored."""
        schema.write(self.folder / MANIFEST, manifest)
        return Artifact(self.folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """What an artifact says of itself; its files are not looked at.

    Raises:
        EdgesegError: no manifest, or one that does not fit, since a later edgeseg wrote it or for another reason.
    """
    if not (folder / MANIFEST).exists():
        raise EdgesegError(f"{folder} is not an artifact: it has no {MANIFEST}")
    document = read_json(folder / MANIFEST)
    if isinstance(document, dict) and isinstance(version := document.get("schema"), int) and version > SCHEMA:
        raise EdgesegError(
            f"{folder / MANIFEST} is of schema {version}, this edgeseg reads {SCHEMA}; pip install --upgrade edgeseg"
        )
    return schema.parse(Manifest, document, str(folder / MANIFEST))

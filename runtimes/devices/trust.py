"""Fast but wrong is caught before it is timed: what an artifact draws on a device, against what it draws here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.artifact import Artifact
from edgeseg.errors import MissingTool
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes import open_artifact, pixels

EVIDENCE = ("01-image.jpg", "01-artifact.png")
"""An image and what the artifact drew when it was verified, as `parity.keep_evidence` leaves them."""

FROM_PICTURE = 0.9
"""Share of labels that must be those of the evidence, whose image is not to the bit the one it was drawn from: it is a JPEG."""

SILENT = "the device does not say what else it was doing"


def doubt(artifact: Artifact, given: NDArray[Any], image: Path | None, drawn: NDArray[np.uint8]) -> str | None:
    """Why the labels `drawn [H, W]` on a device for the input `given` must not be believed; null when they may be.

    image: the file that the input was made of, where there is one.
    """
    limit, where = _limit(artifact), "here"
    try:
        session = open_artifact(artifact, threads=1)
    except MissingTool as error:
        expected = verified(artifact, image)
        if expected is None:
            hint = "" if artifact.manifest.decoder else ", or feed the artifact's own evidence image"
            return f"nothing to compare its masks with: {error}{hint}"
        limit, where = min(limit, FROM_PICTURE), "when it was verified"
    else:
        expected = pixels.labels(session.run(given))
        session.close()
    return _wrong(expected, drawn, limit, where)


def doubt_here(artifact: Artifact, image: Path, drawn: NDArray[np.uint8]) -> str | None:
    """The same of labels that this machine drew, which has nothing but the proof to hold them to: null for what has none.

    A proof may be from another machine, where the file was right.
    """
    expected = verified(artifact, image) if artifact.manifest.ledger else None
    if expected is None:
        return None
    return _wrong(expected, drawn, min(_limit(artifact), FROM_PICTURE), "when it was verified")


def verified(artifact: Artifact, image: Path | None) -> NDArray[np.uint8] | None:
    """What the artifact drew of its evidence image when it was verified; null for another image, and where a prompt was asked."""
    evidence = artifact.folder / "evidence"
    own = image is not None and image.resolve() == (evidence / EVIDENCE[0]).resolve()
    if not own or artifact.manifest.decoder or not (evidence / EVIDENCE[1]).exists():
        return None
    return picture(evidence / EVIDENCE[1])


def _wrong(expected: NDArray[np.uint8], drawn: NDArray[np.uint8], limit: float, where: str) -> str | None:
    if expected.shape != drawn.shape:
        return f"wrong masks: {list(drawn.shape)} labels where {where} there are {list(expected.shape)}"
    same = float(np.mean(expected == drawn))
    if not same >= limit:
        return f"wrong masks: {same:.2%} of the labels are those of the same artifact {where}, at least {limit:.2%} must be"
    return None


def _limit(artifact: Artifact) -> float:
    """The least share of labels of its precision, as asked for and as executed."""
    precision = artifact.manifest.precision
    known = [name for name in (precision.asked, precision.executed) if name and name in PRECISIONS]
    return min((PRECISIONS[name].same_label for name in known), default=1.0)


def picture(path: Path) -> NDArray[np.uint8]:
    """A label map `[H, W]` from its PNG."""
    from PIL import Image

    with Image.open(path) as opened:
        return np.asarray(opened, np.uint8)

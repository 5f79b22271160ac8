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
    precision = artifact.manifest.precision
    known = [name for name in (precision.asked, precision.executed) if name and name in PRECISIONS]
    limits = [PRECISIONS[name].same_label for name in known]
    limit, where = min(limits, default=1.0), "here"
    try:
        session = open_artifact(artifact, threads=1)
    except MissingTool as error:
        evidence = artifact.folder / "evidence"
        if image is None or image.resolve() != (evidence / EVIDENCE[0]).resolve():
            return f"nothing to compare its masks with: {error}, or feed the artifact's own evidence image"
        expected = picture(evidence / EVIDENCE[1])
        limit, where = min(limit, FROM_PICTURE), "when it was verified"
    else:
        expected = pixels.labels(session.run(given))
        session.close()
    if expected.shape != drawn.shape:
        return f"wrong masks: {list(drawn.shape)} labels where {where} there are {list(expected.shape)}"
    same = float(np.mean(expected == drawn))
    if not same >= limit:
        return f"wrong masks: {same:.2%} of the labels are those of the same artifact {where}, at least {limit:.2%} must be"
    return None


def picture(path: Path) -> NDArray[np.uint8]:
    """A label map `[H, W]` from its PNG."""
    from PIL import Image

    with Image.open(path) as opened:
        return np.asarray(opened, np.uint8)

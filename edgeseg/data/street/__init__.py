"""Street scenes with exact labels: a straight or bent street, seen by a pinhole camera, painted from far to near.

`stage` is what it is painted on, `things` what stands in it, `layout` where, `picture` what the camera sees of it.
"""

from __future__ import annotations

import numpy as np

from edgeseg.data.base import Image, Labels
from edgeseg.data.street.layout import draw_street
from edgeseg.data.street.picture import photograph
from edgeseg.data.street.stage import Dice, Stage


def draw_scene(key: tuple[int, int, int], size: tuple[int, int]) -> tuple[Image, Labels]:
    """The scene of (seed, split, index): image `[H, W, 3]` and labels `[H, W]`."""
    stage = Stage(Dice(*key), size)
    draw_street(stage)
    labels: Labels = np.array(stage.labels, np.uint8).take(stage.canvas[::2, ::2, 3])
    return photograph(stage), labels

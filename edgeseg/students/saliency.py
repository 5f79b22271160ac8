"""Where a person would look first: the click that gives the first mask before there is any."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Longer side of the picture that is searched; what catches the eye is not in the details."""


def salient_point(image: NDArray[np.uint8]) -> tuple[float, float]:
    """(x, y) in the middle of the most salient region of RGB `image [H, W, 3]`.

    Spectral residual (Hou & Zhang, CVPR 2007): what the log spectrum has beyond its own local average, back in space,
    smoothed; of the places above twice the mean, the middle of the region that holds most.
    """
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float64)
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum) + 1)  # one grey level: where there is nothing, rounding is not a signal
    residual = log - cv2.blur(log, (3, 3))
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    saliency = cv2.GaussianBlur(saliency, (0, 0), 2.5)
    bright = (saliency > 2 * saliency.mean()).astype(np.uint8)
    count, regions = cv2.connectedComponents(bright)
    if count < 2:
        return width / 2, height / 2
    best = 1 + int(np.argmax([saliency[regions == index].sum() for index in range(1, count)]))
    depth = cv2.distanceTransform(np.pad((regions == best).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return (column + 0.5) * width / size[0], (row + 0.5) * height / size[1]

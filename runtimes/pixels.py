"""From a file's bytes to what an artifact takes, and from what it gives back to a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.manifest import InputSpec
from edgeseg.runtimes import agent


def decode(data: bytes) -> NDArray[np.uint8]:
    """JPEG or PNG bytes to RGB `[H, W, 3]`."""
    pixels = agent.decode(data)
    if pixels is None:
        raise EdgesegError(f"{len(data)} bytes are no image that can be decoded; give a JPEG or PNG")
    return np.asarray(pixels, np.uint8)


def encode(image: NDArray[np.uint8]) -> bytes:
    """RGB `[H, W, 3]` to JPEG bytes."""
    import cv2

    return bytes(cv2.imencode(".jpg", image[..., ::-1])[1])


def size(spec: InputSpec) -> tuple[int, int]:
    """Height and width of an input."""
    height, width = spec.shape[1:3] if spec.layout == "NHWC" else spec.shape[2:4]
    return height, width


def at(spec: InputSpec, height: int, width: int) -> InputSpec:
    """The input at another size."""
    return replace(spec, shape=[1, height, width, 3] if spec.layout == "NHWC" else [1, 3, height, width])


def nearest(spec: InputSpec, height: int, width: int) -> InputSpec:
    """The input at the size nearest to an image's that it takes; the usual one where it takes no other."""
    return spec if spec.sizes is None else at(spec, *spec.sizes.nearest((height, width), spec.step))


def taken(shape: Sequence[int], spec: InputSpec) -> bool:
    """Whether an array of this shape is one of the sizes and batches that an input is free in."""
    if spec.sizes is None or len(shape) != 4 or not 1 <= shape[0] <= spec.sizes.batch:
        return False
    one = replace(spec, shape=list(shape))
    return [1, *shape[1:]] == nearest(spec, *size(one)).shape


def prepare(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
    """RGB `[H, W, 3]` of any size to exactly what `spec` says: resized (bilinear), and normalised unless that is baked in."""
    made: NDArray[Any] = agent.prepare(image, takes(spec))
    return made


def takes(spec: InputSpec) -> dict[str, Any]:
    """An input in the words of `agent.prepare`."""
    height, width = size(spec)
    norm = {"mean": spec.mean, "std": spec.std, "layout": spec.layout, "dtype": spec.dtype}
    return {"height": height, "width": width, "baked": spec.baked, "colour": spec.colour, **norm}


def labels(output: NDArray[Any]) -> NDArray[np.uint8]:
    """An output to its label map `[H, W]`: `labels [1, H, W]`, `logits [1, K, H, W]`, or the logits of one mask `[1, 1, H, W]`."""
    label_map: NDArray[np.uint8] = agent.labels(output)
    return label_map


def enlarge(label_map: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A label map `[h, w]` at another size, nearest neighbour: labels cannot be averaged."""
    larger: NDArray[np.uint8] = agent.enlarge(label_map, height, width)
    return larger


def pattern(height: int, width: int) -> NDArray[np.uint8]:
    """A fixed RGB image `[H, W, 3]` of gradients, edges and noise: zeros would let a runtime skip work."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([255 * y / height, 255 * x / width, 127 + 128 * np.sin(x / 9) * np.cos(y / 7)], axis=-1)
    squares = 48 * ((x // 32 + y // 32) % 2)[..., None]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return np.asarray(np.clip(smooth + squares + noise, 0, 255), np.uint8)

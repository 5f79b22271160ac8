"""From a file's bytes to what an artifact takes, and from what it gives back to a label map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.manifest import InputSpec


def decode(data: bytes) -> NDArray[np.uint8]:
    """JPEG or PNG bytes to RGB `[H, W, 3]`."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
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


def prepare(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
    """RGB `[H, W, 3]` of any size to exactly what `spec` says: resized (bilinear), and normalised unless that is baked in."""
    height, width = size(spec)
    if image.shape[:2] != (height, width):
        import cv2

        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if "pre" in spec.baked:
        return np.ascontiguousarray(image)[None]
    scale = np.asarray([1 / (255 * std) for std in spec.std], np.float32)
    shift = np.asarray([mean / std for mean, std in zip(spec.mean, spec.std, strict=True)], np.float32)
    scaled = image * scale - shift
    planes = scaled if spec.layout == "NHWC" else scaled.transpose(2, 0, 1)
    normal: NDArray[Any] = np.ascontiguousarray(planes[None], dtype=spec.dtype)
    return normal


def labels(output: NDArray[Any]) -> NDArray[np.uint8]:
    """An output to its label map `[H, W]`: `labels [1, H, W]`, `logits [1, K, H, W]`, or the logits of one mask `[1, 1, H, W]`."""
    if output.ndim == 3:
        label_map: NDArray[Any] = output[0]
    else:
        label_map = output[0, 0] > 0 if output.shape[1] == 1 else output[0].argmax(axis=0)
    return label_map.astype(np.uint8, copy=False)


def enlarge(label_map: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A label map `[h, w]` at another size, nearest neighbour: labels cannot be averaged."""
    import cv2

    return np.asarray(cv2.resize(label_map, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def pattern(height: int, width: int) -> NDArray[np.uint8]:
    """A fixed RGB image `[H, W, 3]` of gradients, edges and noise: zeros would let a runtime skip work."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([255 * y / height, 255 * x / width, 127 + 128 * np.sin(x / 9) * np.cos(y / 7)], axis=-1)
    squares = 48 * ((x // 32 + y // 32) % 2)[..., None]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return np.asarray(np.clip(smooth + squares + noise, 0, 255), np.uint8)

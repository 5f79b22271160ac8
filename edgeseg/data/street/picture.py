"""From the painted canvas to the picture that a camera would have taken."""

from __future__ import annotations

import math

import numpy as np

from edgeseg.data.base import Image
from edgeseg.data.street.stage import CLASSES, SKY, Dice, Floats, Stage, noise, noise_tile
from edgeseg.metrics import VOID


def ground_noise(stage: Stage, z: Floats) -> Floats:
    """Noise `[len(z), W]` laid out in perspective on the ground at distances z, one per row."""
    camera, columns = stage.camera, np.arange(stage.size[1], dtype=np.float32)
    x = (2 * columns - (camera.centre[0] + camera.yaw)) / camera.focal * z[:, None] - camera.aside
    deep, wide = (z * 24).astype(np.int32)[:, None] + stage.dice.count(0, 511), (x * 24).astype(np.int32)
    tile = noise_tile()
    fine, coarse = tile[deep & 511, wide & 511], tile[(deep >> 3) & 511, (wide >> 3) & 511]
    fade = (np.minimum(12 / z, 1) / 64)[:, None]  # far noise is finer than a pixel
    return np.asarray((np.float32(0.6) * fine + coarse) * fade, np.float32)


def clouds(stage: Stage) -> Floats:
    """Clouds `[H, W]` to add to the sky."""
    import cv2

    place = stage.dice.count(0, 511)
    patch = np.maximum(noise(np.arange(140) + place, np.arange(90) + 3 * place), 0).astype(np.float32)
    return np.asarray(cv2.resize(patch, stage.size[::-1]), np.float32) * np.float32(stage.day.clouds / 64)


def shine(stage: Stage) -> tuple[Floats, Floats]:
    """The light on each pixel, texture included, and the share of it that the haze lets through, both `[H, W]`."""
    import cv2

    camera, (rows, columns) = stage.camera, stage.size
    layer = stage.canvas[::2, ::2, 3].astype(np.intp)
    grain = np.array([0.0 if label == VOID else CLASSES[label].grain for label in stage.labels], np.float32).take(layer)
    clear = np.array(stage.clear, np.float32).take(layer)
    light = np.array(stage.light, np.float32).take(layer)
    texture = noise(np.arange(rows) + stage.dice.count(0, 511), np.arange(columns)).astype(np.float32) / 64

    top = min(max(math.ceil(camera.centre[1] / 2), 0), rows)
    ground = np.array(stage.flat).take(layer[top:])
    z = (camera.focal * camera.height / np.maximum(2 * np.arange(top, rows) - camera.centre[1], 1)).astype(np.float32)
    shadow = cv2.GaussianBlur(stage.shadow, (5, 5), 0)[2 * top :: 2, ::2].astype(np.float32) / 255
    np.copyto(texture[top:], ground_noise(stage, z), where=ground)
    np.copyto(clear[top:], np.exp(-z / np.float32(stage.view))[:, None], where=ground)
    np.copyto(light[top:], 1 - shadow, where=ground)
    return np.asarray((1 + grain * texture) * light, np.float32), clear


def photograph(stage: Stage) -> Image:
    """The image `[H, W, 3]`: the colours of the canvas in their light and haze, through a lens."""
    import cv2

    dice, day, (rows, columns) = stage.dice, stage.day, stage.size
    bright, clear = shine(stage)
    sky = clouds(stage) * (stage.canvas[::2, ::2, 3] == stage.labels.index(SKY))
    across, down = np.linspace(-1, 1, columns, dtype=np.float32), np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    vignette = 1 - np.float32(dice.between(0, 0.18)) * (across * across + down * down)
    colours = cv2.split(cv2.GaussianBlur(stage.canvas, (3, 3), 0)[::2, ::2, :3].copy())
    balance = dice.shade((1.0, 1.0, 1.0), 0.18)
    seen, veil = bright * clear, 1 - clear
    planes = [
        (colour * (seen * np.float32(light)) + veil * np.float32(air) + sky) * (vignette * np.float32(white))
        for colour, light, air, white in zip(colours, day.light, day.sky[1], balance, strict=True)
    ]
    return develop(dice, np.asarray(cv2.merge(planes), np.float32))


def develop(dice: Dice, rgb: Floats) -> Image:
    """The image after motion or defocus, sensor noise and, for one in two, JPEG."""
    import cv2

    blur = dice.between(0, 1)
    if blur < 0.15:
        rgb = cv2.blur(rgb, (2 + rgb.shape[1] // 160, 1)).astype(np.float32, copy=False)
    elif blur < 0.5:
        rgb = cv2.GaussianBlur(rgb, (3, 3), 0).astype(np.float32, copy=False)
    sensor = np.frombuffer(dice.rng.bytes(rgb.size), np.int8).reshape(rgb.shape)
    image = np.clip(rgb + sensor * np.float32(dice.between(0.01, 0.14)), 0, 255).astype(np.uint8)
    if dice.chance(0.5):
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, dice.count(55, 95)])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return image

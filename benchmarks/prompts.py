"""Encoding an image and decoding 20 prompts together, against encoding it and decoding 20 times one prompt.

What depends on the image alone is computed once: asking for 20 objects at a time must not cost more than asking 20 times.
Three times one image: the student in PyTorch, and its two networks in ONNX Runtime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratio import Finding, Logs, burst, finding, fresh, in_turns

LIMIT = 1.15
PROMPTS, SIDE = 20, 256
PAIRS, ROUNDS = 5, 2
STUDENTS: tuple[tuple[str, dict[str, Any]], ...] = (("rwkv_sam_tiny", {}), ("squeeze_sam", {"side": 256}))


def prompts() -> tuple[Any, Any]:
    """Clicks all over the image, `[P, 2, 2]` and `[P, 2]`, each with an empty place behind it."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, SIDE, (PROMPTS, 2, 2)).astype(np.float32)
    labels = np.tile(np.array([1, -1], np.float32), (PROMPTS, 1))
    return points, labels


def in_torch(name: str, options: dict[str, Any]) -> Logs:
    """Log-ratios of the student itself."""
    import torch

    from edgeseg.students import create

    student = create(name, **options).eval()
    image = torch.randn(1, 3, SIDE, SIDE)
    points, labels = (torch.from_numpy(each) for each in prompts())

    def answer(maps: Any, some: slice) -> None:
        step = student.at_once or PROMPTS
        for start in range(some.start, some.stop, step):
            part = slice(start, min(start + step, some.stop))
            student.low_masks(maps, (SIDE, SIDE), points[part], labels[part])

    return compared(lambda: student.embed(image), answer)


def in_onnxruntime(name: str, options: dict[str, Any]) -> Logs:
    """Log-ratios of its artifact."""
    import edgeseg as es
    from edgeseg.students import create

    with tempfile.TemporaryDirectory() as folder:
        artifact = es.export_model(create(name, **options), es.OnnxRuntime(), Path(folder) / "artifact", (SIDE, SIDE))
        session: Any = artifact.session
        image = np.zeros((1, 3, SIDE, SIDE), np.float32)
        points, labels = prompts()

        def answer(maps: Any, some: slice) -> None:
            session.decode(maps, points[some], labels[some])

        return compared(lambda: session.encode(image), answer)


def compared(encode: Callable[[], Any], answer: Callable[[Any, slice], None]) -> Logs:
    """Log-ratios of all prompts together over all prompts one by one, encoding included in both."""
    import torch

    def together() -> None:
        answer(encode(), slice(0, PROMPTS))

    def one_by_one() -> None:
        maps = encode()
        for index in range(PROMPTS):
            answer(maps, slice(index, index + 1))

    with torch.inference_mode():
        return in_turns(burst(together), burst(one_by_one), PAIRS)


def findings() -> list[Finding]:
    """Every promptable family both ways."""
    found = []
    for name, options in STUDENTS:
        for where, measure in (("PyTorch", in_torch), ("ONNX Runtime", in_onnxruntime)):
            logs = [fresh(measure, name, options) for _ in range(ROUNDS)]
            found.append(finding(f"{PROMPTS} prompts together / one by one, {name} {SIDE}, {where}", logs, LIMIT))
    return found

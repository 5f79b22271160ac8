"""PyTorch, eager: a run as it was trained, without any export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.manifest import InputSpec, OutputSpec
from edgeseg.runtimes.base import RUNTIMES, Runtime, wrong_input
from edgeseg.runtimes.record import Execution

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact


class TorchSession:
    """A student, in float32 on the CPU. The number of threads is the process's own: one session per process."""

    def __init__(self, folder: Path, threads: int, size: tuple[int, int]) -> None:
        import torch

        from edgeseg.runs import load_run

        self._student = load_run(folder)
        classes, mean, std = self._student.classes, self._student.mean, self._student.std
        self.input = InputSpec("image", [1, 3, *size], "NCHW", "float32", "RGB", mean, std, [])
        self.output = OutputSpec("logits", "logits", [1, classes, *size], "float32")
        self._shape = tuple(self.input.shape)
        self._student.check_size(torch.empty(self._shape, device="meta"))
        torch.set_num_threads(threads)

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        """The logits `[1, K, H, W]` of one normalised image `[1, 3, H, W]`."""
        import torch

        if image.shape != self._shape or image.dtype != np.float32:
            raise wrong_input(image, self.input)
        with torch.inference_mode():
            logits: NDArray[Any] = self._student(torch.from_numpy(image)).numpy()
        return logits

    @property
    def execution(self) -> Execution:
        """What PyTorch says of itself."""
        import torch

        weights = next(self._student.parameters())
        settings = {
            "mode": "eager",
            "memory_format": "contiguous",
            "onednn": str(torch.backends.mkldnn.enabled).lower(),
            "matmul_precision": torch.get_float32_matmul_precision(),
        }
        precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[weights.dtype]
        return Execution("torch", version(), torch.get_num_threads(), precision, None, settings)

    def close(self) -> None:
        """Let go of the student."""
        del self._student


def _no_artifact(artifact: Artifact, threads: int) -> NoReturn:
    raise EdgesegError(f"{artifact.folder} is an artifact; the torch runtime runs a run, so give the run's folder")


def version() -> str:
    """The installed PyTorch."""
    return str(need("torch").__version__)


RUNTIMES.add("torch", Runtime("torch", version, _no_artifact, TorchSession))

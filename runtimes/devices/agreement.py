"""The last hop: what an artifact draws on a device, image by image, against what the same artifact draws here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, ParityFailed
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes import open_artifact, pixels, runtime_of
from edgeseg.runtimes.devices import open_device
from edgeseg.runtimes.devices.remote import Remote
from edgeseg.schema import STRICT

# fp32: sums in another order; measured 1.0 under emulation.
# int8: convolutions are equal to the bit, but the sum of two maps is rescaled in float32, where Arm and x86 round some ties to
# different sides (ONNX Runtime: 2e-5 of the values at the first sum of DDRNet, by one step, and more from there on); measured 0.9989
# of a trained one in ONNX Runtime, 1.0 in LiteRT, and 0.970 of an image of one with random weights, which is chaotic.
SAME = {"fp32": 0.9999, "int8": 0.995}
"""Least share of equal labels on two processors. Others: that of their precision."""


@dataclass(frozen=True)
class Agreement:
    """Shares of pixels, 0..1, that have the same label there and here: of each image, and of all `pixels`, of which some are `different`.

    runtime: with its version there, and here where it is another.
    """

    __pydantic_config__ = STRICT
    device: str
    model: str | None
    cpu: str | None
    runtime: str
    precision: str
    images: str
    pixels: int
    different: int
    shares: list[float]
    same: float
    limit: float
    passed: bool


def agree(
    artifact: Artifact,
    device: str,
    where: str,
    pictures: Sequence[NDArray[np.uint8]],
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Draw RGB pictures `[H, W, 3]` on the device and here; `where` names them.

    Raises:
        MissingTool: the device, or the runtime on one of the two. Died: it came to nothing there.
    """
    spec, precision = artifact.manifest.input, artifact.manifest.precision
    asked = precision.executed or precision.asked
    equal: list[NDArray[np.bool_]] = []
    with closing(open_device(device)) as there:
        if not isinstance(there, Remote):
            raise EdgesegError(
                f"{device} is this machine, which verify compares on without -d"
                if there.kind == "local"
                else f"nothing draws on {device} but the jobs of `edgeseg bench`, which compares their masks"
            )
        facts, session = there.probe(), open_artifact(artifact, threads=1)
        with closing(session), closing(there.spawn()) as bench:
            bench.open(str(artifact.folder.resolve()), threads=1, size=None, image=None, e2e=False)
            for picture in pictures:
                given = pixels.prepare(picture, spec)
                equal.append(bench.draw(given) == pixels.labels(session.run(given)))
                if progress:
                    progress(len(equal), len(pictures))
            version, here = bench.version, runtime_of(artifact).version()
    same, limit = float(np.mean(equal)), SAME.get(asked, PRECISIONS[asked].same_label)
    return Agreement(
        device=device,
        model=facts.model,
        cpu=facts.cpu,
        runtime=f"{runtime_of(artifact).name} {version}{'' if version == here else f', {here} here'}",
        precision=asked,
        images=where,
        pixels=int(np.size(equal)),
        different=int(np.size(equal) - np.count_nonzero(equal)),
        shares=[float(np.mean(each)) for each in equal],
        same=same,
        limit=limit,
        passed=same >= limit,
    )


def refusal(found: Agreement) -> ParityFailed | None:
    """Why the device must not be trusted with the artifact; null when it may."""
    if found.passed:
        return None
    return ParityFailed(
        f"{found.device} draws other masks: {found.different} of {found.pixels} labels are others than here, "
        f"at least {found.limit:.2%} must be the same"
    )

"""Other people's networks as students: `package.module:factory`, `timm:ENCODER`, `transformers:FOLDER-OR-NAME`.

Each becomes a `Semantic`: trained, exported, verified and measured by the same code as our own. A factory takes the number
of classes and gives a module from `image [B, 3, H, W]` to logits `[B, classes, h, w]` at any resolution, alone, under
`"out"` (torchvision), or as `.logits` (transformers). What it says of itself as `multiple`, `mean` and `std` is believed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError, need
from edgeseg.students.student import Semantic, upsample

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Tried in turn where a network does not say what its sides must be multiples of."""

HEAD = 128
"""Channels of the light head on a timm encoder."""


class External(Semantic):
    """A network of somebody else's."""

    licence = "its author's"
    paper = "its author's"

    def __init__(self, classes: int, net: nn.Module) -> None:
        super().__init__(classes)
        self.net = net
        self.mean = tuple(getattr(net, "mean", None) or self.mean)
        self.std = tuple(getattr(net, "std", None) or self.std)
        self.multiple = getattr(net, "multiple", None) or self._fitting()

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """Nobody knows its stages: where they are needed, a module is named."""
        raise EdgesegError(f"{self.name} does not say what its stages are; name a module of it, e.g. net.backbone")

    def low_logits(self, image: Tensor) -> Tensor:
        """The network's logits, wherever it put them."""
        try:
            made: Any = self.net(image)
        except TypeError as error:  # it wants more than the image, or another
            raise EdgesegError(
                f"{self.name} cannot be asked with an image [B, 3, H, W] alone ({error!s:.200}); wrap it in a module that can"
            ) from error
        if isinstance(made, Mapping) and "out" in made:
            made = made["out"]
        logits = getattr(made, "logits", made)
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != self.classes:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(made).__name__
            raise EdgesegError(f"{self.name} must give logits [B, {self.classes}, h, w], got {got}")
        return logits

    @torch.inference_mode()
    def _fitting(self) -> int:
        """The smallest multiple at which an odd number of it, each way, goes through."""
        training = self.net.training
        self.net.eval()
        problem: Exception | None = None
        for multiple in MULTIPLES:
            sides = [multiple * (96 // multiple + 1 + extra) for extra in (0, 2)]
            try:
                self.low_logits(torch.zeros(1, 3, *sides))
            except (RuntimeError, ValueError, AssertionError) as error:
                problem = error
                continue
            self.net.train(training)
            return multiple
        why = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise EdgesegError(
            f"the network takes no image of sides around 96 ({why:.120}); give it an attribute `multiple`"
        )


class Encoded(nn.Module):
    """A timm encoder and a light head: its maps from 1/4 or 1/8 on, at one width, added up from coarse to fine."""

    def __init__(self, encoder: str, classes: int) -> None:
        super().__init__()
        mend_torchvision()
        timm = need("timm")
        if encoder not in timm.list_models():
            raise EdgesegError(f"timm {timm.__version__} has no encoder {encoder!r}; timm.list_models() names them")
        self.encoder = timm.create_model(encoder, pretrained=False, features_only=True)
        config = self.encoder.default_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        info = self.encoder.feature_info
        channels = [c for c, r in zip(info.channels(), info.reduction(), strict=True) if r >= 4]
        self.skipped = len(info.channels()) - len(channels)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, HEAD, 1, bias=False), nn.BatchNorm2d(HEAD)) for inner in channels
        )
        self.classifier = nn.Sequential(nn.ReLU(), nn.Conv2d(HEAD, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, classes, h, w]` at the finest map's size."""
        maps = self.encoder(image)[self.skipped :]
        *finer, x = (lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        for each in reversed(finer):
            x = each + upsample(x, each.shape[-2:])
        return self.classifier(x)


@cache
def mend_torchvision() -> None:
    """Make an installed torchvision importable; timm and transformers import it.

    PyPI's for Linux is built for CUDA and does not import beside a CPU torch: it registers fakes of two operators that its
    own library then fails to bring. With their schemas declared first it does import; the operators themselves stay
    missing, which no segmentation network has use for.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        print("note: torchvision is built for another torch: its own operators are missing", file=sys.stderr)
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[torch.library.Library] = []
"""Schemas end with the library that declared them."""


def from_timm(encoder: str, classes: int) -> nn.Module:
    """A timm encoder with the light head, untrained."""
    return Encoded(encoder, classes)


def from_transformers(source: str, classes: int) -> nn.Module:
    """The semantic segmentation network that a configuration (a folder, or a name on the Hub) describes, untrained."""
    mend_torchvision()
    transformers = need("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(source, num_labels=classes)
        return transformers.AutoModelForSemanticSegmentation.from_config(config)
    except (OSError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EdgesegError(f"transformers cannot build {source!r}: {why:.200}") from error


def from_student(name: str, classes: int) -> nn.Module:
    """A student of ours that is shown the labels too (`edgeseg.students.assisted`), untrained."""
    from edgeseg.students import assisted

    return assisted.from_student(name, classes)


SOURCES: dict[str, Callable[[str, int], nn.Module]] = {
    "assisted": from_student,
    "timm": from_timm,
    "transformers": from_transformers,
}
"""What stands before the colon -> what builds the network; anything else before it is a module with a factory."""


def external(name: str, classes: int, trust: bool = True) -> External:
    """The student that `name`, `SOURCE:WHAT` or `package.module:factory`, stands for.

    trust: import the module if nobody has. A name that comes out of a file is not to be trusted: importing is running.

    Raises:
        EdgesegError: no such module or factory, one that is not trusted, or a network that does not answer with logits.
    """
    source, _, what = name.partition(":")
    if source in SOURCES:
        return External(classes, SOURCES[source](what, classes))
    if not trust and source not in sys.modules:
        raise EdgesegError(
            f"{name} would import {source}, which runs its code; if you trust it, import it first, or `edgeseg --trust {source} ...`"
        )
    try:
        factory = getattr(importlib.import_module(source), what)
    except (ImportError, AttributeError, ValueError) as error:
        raise EdgesegError(f"no factory {name!r} ({error}); give package.module:function") from error
    try:
        net = factory(classes)
    except TypeError as error:
        raise EdgesegError(f"{name} must take the number of classes as its first argument ({error})") from error
    if not isinstance(net, nn.Module):
        raise EdgesegError(f"{name} must give a torch.nn.Module, got {type(net).__name__}")
    return External(classes, net)

"""A frozen teacher: what it makes of the images of a batch, in the classes of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.embed import teacher_of
from edgeseg.embed.work import brief
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.runs import load_run, read_card
from edgeseg.students import Features, Promptable, Semantic, Student, upsample
from edgeseg.students.assisted import is_assisted
from edgeseg.students.maps import kept, staged, stages
from edgeseg.students.promptable import best_mask, spread
from edgeseg.students.sources import digest, from_source, is_source
from edgeseg.train.assisted import with_labels
from edgeseg.train.teaching import ALONE, EMA, Key, Teaching, View


class Teacher:
    """A semantic network that answers in evaluation mode, without gradients: that of a run, or one that is at hand.

    Raises:
        EdgesegError: it is promptable, or of other weights than the recipe says, or does not know a class of the data.
    """

    def __init__(
        self,
        teaching: Teaching,
        class_names: Sequence[str],
        device: torch.device | str = "cpu",
        network: Student | None = None,
    ) -> None:
        network = network or opened(teaching, class_names)
        if not isinstance(network, Semantic):
            raise EdgesegError(
                f"the teacher {teaching.teacher} is promptable; a student that names classes learns from one that does"
            )
        self.joined = Joined(network.class_names, class_names, teaching.classes)
        self.network = network.to(device).eval().requires_grad_(requires_grad=False)
        if torch.device(device).type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """uint8 `images [B, 3, H, W]` to logits `[B, K, h, w]` of the data's classes at `size` (height, width)."""
        return self.view(images, size).logits

    @torch.no_grad()
    def view(
        self,
        images: Tensor,
        size: Sequence[int],
        keys: Sequence[Key] = (),
        labels: Tensor | None = None,
        seed: int = 0,
    ) -> View:
        """The same logits and the maps of `keys`, at the teacher's own resolution.

        labels: `[B, H, W]`, which a label-assisted teacher is shown; `seed` is that of the noise on them.
        """
        height, width = images.shape[-2:]
        fill = (0, -width % self.network.multiple, 0, -height % self.network.multiple)
        normal = self.network.normalise(images)
        if labels is not None and is_assisted(self.network):
            normal = with_labels(self.network, normal, self._own(labels), seed)
        seen = F.pad(normal, fill)
        with brief(images.device), kept(self.network, keys, seen) as maps:
            if staged(self.network, keys):
                heads, every = self.network.training_outputs(seen)
                logits, maps = heads[0].float(), maps | stages(self.network, keys, every)
            else:
                logits = self.network.low_logits(seen).float()
        if any(fill):
            whole = (height + fill[3], width + fill[1])
            logits = upsample(logits, whole)[..., :height, :width]
            maps = {key: cut(each, (height / whole[0], width / whole[1])) for key, each in maps.items()}
        if logits.shape[-2:] != tuple(size):
            logits = upsample(logits, size)
        return View(self.joined(logits), maps)

    def _own(self, labels: Tensor) -> Tensor:
        """Labels of the data in the teacher's classes, the first of them where several are one of the data's."""
        table = torch.full((VOID + 1,), VOID, dtype=torch.uint8, device=labels.device)
        for index, group in enumerate(self.joined.groups):
            table[index] = group[0]
        return table[labels.long()]


class Joined:
    """A teacher's logits `[B, K, h, w]`, to those of the data's classes.

    Raises:
        EdgesegError: in the first images asked about, every pixel is of a class that the data does not have.
    """

    def __init__(self, teachers: Sequence[str], wanted: Sequence[str], named: dict[str, str]) -> None:
        self.groups = groups(teachers, wanted, named)
        self._names = teachers
        self._dropped = set(range(len(teachers))) - {index for group in self.groups for index in group}

    def __call__(self, logits: Tensor) -> Tensor:
        if self._dropped:
            seen = logits.argmax(1).unique().tolist()
            if set(seen) <= self._dropped:
                raise EdgesegError(
                    f"every pixel of a batch is {', '.join(self._names[index] for index in seen)} to the teacher, which "
                    "the class map leaves out; name what of the data that is, or another teacher"
                )
            self._dropped = set()  # one look is enough, at every step it would cost time
        if all(len(group) == 1 for group in self.groups):
            return logits[:, [group[0] for group in self.groups]]
        # several classes of the teacher are one of the data: their probabilities add up
        return torch.stack([logits[:, group].logsumexp(1) for group in self.groups], 1)


class PromptTeacher:
    """A promptable network that answers in evaluation mode, without gradients."""

    def __init__(self, teaching: Teaching, device: torch.device | str = "cpu", network: Student | None = None) -> None:
        network = network or opened(teaching)
        if not isinstance(network, Promptable):
            raise EdgesegError(
                f"the teacher {teaching.teacher} is semantic; a promptable student learns from one that takes prompts"
            )
        self.network = network.to(device).eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def look(self, images: Tensor, keys: Sequence[Key] = ()) -> tuple[Features, dict[Key, Tensor]]:
        """What it makes of uint8 `images [B, 3, H, W]`: features to ask, and the maps of `keys`."""
        height, width = images.shape[-2:]
        multiple = self.network.multiple
        seen = F.pad(self.network.normalise(images), (0, -width % multiple, 0, -height % multiple))
        with brief(images.device):
            with kept(self.network, keys, seen) as maps:
                features = self.network.encode(seen)
            if staged(self.network, keys):
                maps |= stages(self.network, keys, self.network.forward_features(seen))
        shares = (height / seen.shape[-2], width / seen.shape[-1])
        return features, {key: cut(each, shares) if shares != (1, 1) else each for key, each in maps.items()}

    @torch.no_grad()
    def answer(
        self, features: Features, points: Tensor, labels: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Its best mask for each prompt, logits `[P, 1, H, W]` at the size of what it saw, and as it came, for the next round."""
        with brief(points.device):
            low = best_mask(
                *self.network.low_masks(spread(features.maps, len(points)), features.size, points, labels, before)
            )
        return self.network.enlarge(low, features.size).float(), low


def fingerprint(teaching: Teaching, class_names: Callable[[], Sequence[str]]) -> str:
    """The SHA-256 of a teacher's weights; empty where it has none of its own."""
    if teaching.teacher in (EMA, ALONE):
        return ""
    if is_source(teaching.teacher):
        return digest(_outside(teaching, class_names()))
    embedded = teacher_of(Path(teaching.teacher))
    return embedded.sha256 if embedded else read_card(Path(teaching.teacher)).sha256


def opened(teaching: Teaching, class_names: Sequence[str] = ()) -> Student:
    """The network that teaches students of these classes.

    Raises:
        EdgesegError: it is of other weights than the recipe says.
    """
    outside = _outside(teaching, class_names) if is_source(teaching.teacher) else None
    found = digest(outside) if outside is not None else read_card(Path(teaching.teacher)).sha256
    if found != teaching.sha256:
        raise EdgesegError(
            f"the teacher {teaching.teacher} has other weights than the recipe says; name the right one, or start anew"
        )
    return outside if outside is not None else load_run(teaching.teacher, trust=teaching.trust)


def _outside(teaching: Teaching, class_names: Sequence[str]) -> Student:
    return from_source(teaching.teacher, class_names, teaching.class_names, teaching.weights, teaching.trust)


def cut(x: Tensor, shares: tuple[float, float]) -> Tensor:
    """The part of a map that shows the picture, without what that was padded with."""
    return x[..., : max(1, round(x.shape[-2] * shares[0])), : max(1, round(x.shape[-1] * shares[1]))]


def groups(teachers: Sequence[str], wanted: Sequence[str], named: dict[str, str]) -> list[list[int]]:
    """For every class of the data, which classes of the teacher it is; names are compared without case.

    Raises:
        EdgesegError: a name that neither has, or a class of the data that no class of the teacher is.
    """
    for name, target in named.items():
        for one, known, whose in ((name, teachers, "teacher"), (target, wanted, "data")):
            if one not in known:
                raise EdgesegError(
                    f"the class map names {one!r}, which the {whose} does not have; there is {', '.join(known)}"
                )
    ours = {name.casefold(): name for name in wanted}
    found: dict[str, list[int]] = {name: [] for name in wanted}
    for index, name in enumerate(teachers):
        ours_is = named.get(name) or ours.get(name.casefold())
        if ours_is is not None:
            found[ours_is].append(index)
    if missing := [name for name, group in found.items() if not group]:
        raise EdgesegError(
            f"the teacher does not know {', '.join(missing)}; say which of its classes that is with --class-map "
            f"(it knows {', '.join(teachers)})"
        )
    return list(found.values())

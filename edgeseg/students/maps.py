"""Maps inside a network, by stage or by the name of a module, kept while it answers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.students import Promptable, Student

Key: TypeAlias = int | str
"""A map inside a network: an index into `forward_features` (-1 is the coarsest), or the name of a module that answers with it."""

EMBEDDING = "embedding"
"""The key of what a promptable network takes for the embedding of an image, a key of its own."""

Widths: TypeAlias = Mapping[Key, int]
"""The channels of each map that a piece asked for."""


@contextmanager
def kept(network: Student, keys: Sequence[Key], image: Tensor) -> Iterator[dict[Key, Tensor]]:
    """What the modules named in `keys` answer while the network looks at `image`, filled as they do.

    Raises:
        EdgesegError: no module of that name, with the near ones; an answer that is no map.
    """
    found: dict[Key, Tensor] = {}
    hooks = []
    try:
        for key in keys:
            name = named(network, key)
            if isinstance(name, str):
                hooks.append(_module(network, name).register_forward_hook(partial(_keep, found, key, image)))
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def named(network: Student, key: Key) -> Key:
    """A key as a stage or a module's name: a network has its own for its embedding."""
    return network.embedding if key == EMBEDDING and isinstance(network, Promptable) else key


def _keep(found: dict[Key, Tensor], key: Key, image: Tensor, module: nn.Module, given: Any, answer: Any) -> None:
    found[key] = as_map(answer, image, f"the module {key!r}")


def stages(network: Student, keys: Sequence[Key], maps: Sequence[Tensor]) -> dict[Key, Tensor]:
    """Those of the stage maps that are asked for.

    Raises:
        EdgesegError: there are not so many.
    """
    found: dict[Key, Tensor] = {}
    for key in keys:
        stage = named(network, key)
        if isinstance(stage, int):
            if not -len(maps) <= stage < len(maps):
                raise EdgesegError(
                    f"{network.name} has stages 0 to {len(maps) - 1}, got {stage}; a module can be named instead"
                )
            found[key] = maps[stage].float()
    return found


def staged(network: Student, keys: Sequence[Key]) -> bool:
    """Whether any of the keys is a stage."""
    return any(isinstance(named(network, key), int) for key in keys)


@torch.no_grad()
def widths(network: Student, keys: Sequence[Key]) -> Widths:
    """The channels of each map: what the network answers with for a small image, without learning from it."""
    if not keys:
        return {}
    device, training = next(network.parameters()).device, network.training
    side = network.multiple * -(-256 // network.multiple)  # large enough for every pooling
    image = torch.zeros(1, 3, side, side, device=device)
    try:
        with kept(network.eval(), keys, image) as found:
            maps = stages(network, keys, network.forward_features(image)) if staged(network, keys) else {}
            if len(maps) < len(keys):
                network.probe(image)
    finally:
        network.train(training)
    if missing := [key for key in keys if key not in found and key not in maps]:
        raise EdgesegError(f"the module {missing[0]!r} of {network.name} is not asked when it looks at an image")
    return {key: each.shape[1] for key, each in {**maps, **found}.items()}


def _module(network: Student, name: str) -> nn.Module:
    """The module of that name, or an error with the near ones."""
    try:
        return network.get_submodule(name)
    except AttributeError:
        there = [known for known, _ in network.named_modules() if known]
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(there[:5])} and more"
    raise EdgesegError(f"{network.name} has no module {name!r}; {hint}")


def as_map(answer: Any, image: Tensor, who: str) -> Tensor:
    """A module's answer as `[B, C, h, w]` float32: a map, the last of a list, the first of a tuple, tokens `[B, h * w, C]`."""
    if isinstance(answer, tuple | list) and answer:
        answer = answer[0] if isinstance(answer, tuple) else answer[-1]
    if isinstance(answer, Tensor) and answer.ndim == 3:
        count = answer.shape[1]
        rows = max(1, round((count * image.shape[-2] / image.shape[-1]) ** 0.5))
        if rows * (count // rows) == count:
            return answer.transpose(1, 2).unflatten(2, (rows, count // rows)).float()
    if not isinstance(answer, Tensor) or answer.ndim != 4:
        got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise EdgesegError(f"{who} answers with {got}, which is no map [B, C, h, w]; name another module")
    return answer.float()

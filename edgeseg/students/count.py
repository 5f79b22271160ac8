"""What a student costs, counted and not typed: parameters, work per stage, memory, the maps it makes and how far they see."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.students.student import Student, create, parameters


def macs(student: Student, size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of `size` (height, width), and one click."""
    device = next(student.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.eval().probe(torch.empty(1, 3, *size, device=device))
    return int(counter.get_total_flops()) // 2


def card(name: str, classes: int, size: tuple[int, int]) -> dict[str, Any]:
    """A student in numbers; nothing is allocated for it."""
    with torch.device("meta"):
        student: Student = create(name, classes=classes if "classes" in parameters(name) else None)
    params, work = sum(value.numel() for value in student.deployed_parameters()), macs(student, size)
    return {
        "name": name,
        "task": student.task,
        "classes": student.classes,
        "size": list(size),
        "params": params,
        "macs": work,
        "multiple": student.multiple,
        "features": [dataclasses.asdict(stage) for stage in student.feature_info],
        "licence": student.licence,
        "paper": student.paper,
        "claims": [
            {
                **dataclasses.asdict(claim),
                "differs": (_differs(claim.params, params) or _differs(claim.macs, work))
                if claim.classes in (None, student.classes)
                else None,
            }
            for claim in student.claims
        ],
    }


def _differs(claimed: int | None, counted: int) -> str | None:
    """By how much a count of ours is above a published one; null where they agree to half a percent, or none is published."""
    if claimed is None or abs(counted / claimed - 1) <= 0.005:
        return None
    return f"{100 * (counted / claimed - 1):+.1f} %"


def profile(name: str, classes: int, size: tuple[int, int]) -> dict[str, Any]:
    """`card` with what only a real pass shows; float32, one image.

    stages:           the parts in the order they run: parameters, multiply-accumulates, shape of what comes out.
    activation_bytes: the most memory that the results of operators held at once.
    features:         with the receptive field (height, width): how far apart the pixels are that a change in the middle of
                      the map depends on, from a gradient through random weights. Global pooling sees everything.
    """
    torch.manual_seed(0)
    student: Student = create(name, classes=classes if "classes" in parameters(name) else None)
    student.eval().check_size(image := torch.randn(1, 3, *size))
    shapes: dict[str, list[int]] = {}

    def note(path: str) -> Any:
        def hook(
            part: nn.Module, given: Any, out: Any
        ) -> None:  # whatever a hook returns would take the output's place
            shapes.setdefault(path, _shape(out))

        return hook

    hooks = [part.register_forward_hook(note(path)) for path, part in _parts(student)]
    counter, memory = FlopCounterMode(display=False), _Memory()
    with torch.no_grad(), memory, counter:
        student.probe(image)
    for hook in hooks:
        hook.remove()
    counts, parts = counter.get_flop_counts(), dict(_parts(student))
    stages: list[dict[str, Any]] = [
        {
            "stage": path,
            "params": sum(value.numel() for value in parts[path].parameters()),
            "macs": sum(counts.get(f"{type(student).__name__}.{path}", {}).values()) // 2,
            "output": shape,
        }
        for path, shape in shapes.items()
    ]
    made = card(name, classes, size)
    rest = made["macs"] - sum(each["macs"] for each in stages)
    stages += [{"stage": "between the stages", "params": 0, "macs": rest, "output": []}] if rest else []
    seen = _receptive_fields(student, image) if student.feature_info else []
    features = [{**each, "receptive_field": reach} for each, reach in zip(made["features"], seen, strict=True)]
    return {**made, "features": features, "activation_bytes": memory.peak, "stages": stages}


def _parts(student: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The children that run; a list and a backbone are their own children."""
    for name, child in student.named_children():
        if isinstance(child, nn.ModuleList) or (name.startswith("backbone") and not isinstance(child, nn.Sequential)):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _shape(made: Any) -> list[int]:
    return next((list(each.shape) for each in tree_leaves(made) if isinstance(each, Tensor)), [])


def _receptive_fields(student: Student, image: Tensor) -> list[list[int]]:
    """(height, width) of the pixels that the middle of each map of `forward_features` has a gradient to."""
    for value in student.parameters():
        if not value.any():
            nn.init.normal_(value, std=0.1)  # what begins at zero would hide what is behind it
    given = image.clone().requires_grad_()
    reach = []
    maps = student.forward_features(given)
    for index, each in enumerate(maps):
        middle = each[0, :, each.shape[2] // 2, each.shape[3] // 2].square().sum()
        gradient = torch.autograd.grad(middle, given, retain_graph=index + 1 < len(maps))[0].abs().amax((0, 1))
        rows, columns = (gradient > 0).any(1).nonzero(), (gradient > 0).any(0).nonzero()
        reach.append([int(axis.max() - axis.min()) + 1 if len(axis) else 0 for axis in (rows, columns)])
    return reach


class _Memory(TorchDispatchMode):
    """The bytes of all results that are alive at once, and the most there ever were; views share their bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, list[int]] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and not isinstance(each, nn.Parameter):
                self._note(each)
        return made

    def _note(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        place = storage.data_ptr()
        if place not in self.alive:
            self.alive[place] = [0, storage.nbytes()]
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        self.alive[place][0] += 1
        weakref.finalize(made, self._forget, place)

    def _forget(self, place: int) -> None:
        if place in self.alive:
            self.alive[place][0] -= 1
            if not self.alive[place][0]:
                self.now -= self.alive.pop(place)[1]

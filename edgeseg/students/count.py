"""What a student costs, counted and not typed: parameters, multiply-accumulates, memory, the maps it makes."""

from __future__ import annotations

import dataclasses
import inspect
import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from edgeseg.students.field import Fields, Planes, field
from edgeseg.students.promptable import Promptable, corners
from edgeseg.students.student import STUDENTS, Claim, Student, create

CLASSES = 19
"""Classes of a semantic student where nobody says how many: those of Cityscapes."""

LARGE = 1 / 4
"""A module with more of the work than this is shown by its parts."""

METHODS = {
    "macs": "multiply-accumulates of convolutions and matrix products, one image",
    "memory": "largest sum of tensors alive at once in eager PyTorch: float32, one image, itself included, without weights",
    "field": "interval arithmetic over the operations that ran: the most of the image that one value depends on",
}
"""How the numbers of `anatomy` are made."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A stage of a student: a module, or several in a row that do the same.

    part:         `image` or `prompt` for a promptable student, else empty.
    shape:        of the (first) tensor that came out, without the batch.
    stride:       pixels of the image per place of it, (down, across); None where it is no map.
    output_bytes: of that tensor, float32.
    peak_bytes:   of all tensors alive at once while the stage ran.
    field:        (height, width) of the image that one of its values depends on.
    """

    part: str
    module: str
    params: int
    macs: int
    shape: tuple[int, ...] = ()
    stride: tuple[int, int] | None = None
    output_bytes: int = 0
    peak_bytes: int = 0
    field: tuple[int, int] = (0, 0)


@dataclasses.dataclass
class Call:
    """What happened while a module ran, and in the modules that it called."""

    name: str
    macs: int = 0
    peak: int = 0
    shape: tuple[int, ...] = ()
    planes: Planes | None = None
    inside: dict[str, Call] = dataclasses.field(default_factory=dict)


class Trace(TorchDispatchMode):
    """While entered, accounts for every operation in the modules that are running; `top` has one call per part."""

    def __init__(self, student: Student, image: Tensor, fields: Fields) -> None:
        super().__init__()
        self.student, self.fields = student, fields
        self.top = Call("")
        self.running = [self.top]
        self.alive = 0
        self.known = WeakIdKeyDictionary()
        for weight in (*student.parameters(), *student.buffers()):
            self.known[weight.untyped_storage()] = True
        self._born(image)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watch the student's modules."""
        handles = []
        for name, module in self.student.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
                handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the student that is no module."""
        self._enter(name)
        yield
        self.running.pop()

    def _enter(self, name: str, *_: Any) -> None:
        self.running.append(self.running[-1].inside.setdefault(name, Call(name)))

    def _leave(self, module: nn.Module, given: Any, made: Any) -> None:
        call = self.running.pop()
        first = next(each for each in tree_leaves(made) if isinstance(each, Tensor))
        call.shape, call.planes = tuple(first.shape[1:]), self.fields.planes.get(first)

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = True
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._gone, storage.nbytes()).atexit = False

    def _gone(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, its work, and what is alive when it is done."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._born(each)
        work = flop_registry.get(func.overloadpacket)
        macs = int(work(*args, **(kwargs or {}), out_val=made)) // 2 if work else 0
        for call in self.running:
            call.macs += macs
            call.peak = max(call.peak, self.alive)
        return made


def build(name: str, classes: int | None = None) -> Any:
    """A student of that name for which nothing is allocated; a semantic one has 19 classes if none are given."""
    semantic = "classes" in inspect.signature(STUDENTS[name]).parameters
    with torch.device("meta"):
        return create(name, classes=CLASSES if semantic and classes is None else classes).eval()


def params(student: Student) -> int:
    """Trainable numbers, without those of heads that only training uses."""
    return sum(value.numel() for value in student.deployed_parameters())


def macs(student: Student, size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of `size` (height, width)."""
    device = next(student.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.eval().probe(torch.empty(1, 3, *size, device=device))
    return int(counter.get_total_flops()) // 2


def card(name: str, classes: int | None, size: tuple[int, int]) -> dict[str, Any]:
    """A student in numbers; nothing is allocated for it."""
    student = build(name, classes)
    return {
        "name": name,
        "task": student.task,
        "classes": student.classes,
        "size": list(size),
        "params": params(student),
        "macs": macs(student, size),
        "multiple": student.multiple,
        "features": [dataclasses.asdict(stage) for stage in student.feature_info],
        "licence": student.licence,
        "paper": student.paper,
        "claims": [dataclasses.asdict(claim) for claim in student.claims],
    }


def anatomy(name: str, classes: int | None, size: tuple[int, int]) -> dict[str, Any]:
    """`card`, its stages in order of execution, the totals, and each published count beside the one made here.

    Raises:
        EdgesegError: no student of that name, or a size that it would not line up with.
    """
    student = build(name, classes)
    rows, whole = stages(student, size)
    return {
        **card(name, classes, size),
        "stages": [dataclasses.asdict(row) for row in rows],
        "output": list(whole.shape),
        "peak_bytes": whole.peak_bytes,
        "field": list(whole.field),
        "methods": METHODS,
        "claims": [compared(name, claim, classes, size) for claim in student.claims],
    }


def compared(name: str, claim: Claim, classes: int | None, size: tuple[int, int]) -> dict[str, Any]:
    """A claim with the same count made here, and how much that is more: 0.05 is 5 %; None where there is none."""
    computed = claimed = None
    if claim.params is not None or claim.macs is not None:
        student = build(name, claim.classes or classes)
        claimed = claim.params or claim.macs
        computed = params(student) if claim.params else macs(student, claim.size or size)
    return {
        **dataclasses.asdict(claim),
        "computed": computed,
        "difference": computed / claimed - 1 if computed and claimed else None,
    }


def stages(student: Student, size: tuple[int, int]) -> tuple[list[Row], Row]:
    """The stages of a student for one image of `size` (height, width) in order of execution, and the student as one row.

    What no module of its own does is in a last row of its part, named `elsewhere`.
    """
    image = torch.empty(1, 3, *size, device=next(student.parameters()).device)
    student.eval().check_size(image)
    with torch.no_grad(), Fields(image) as fields, Trace(student, image, fields) as trace, trace.hooks():
        answer = _run(student, image, trace)
    weights = {key: value.numel() for key, value in student.named_parameters()}
    total, rows = params(student), []
    for part in trace.top.inside.values():
        calls = [alike for each in part.inside.values() for alike in _open(each, LARGE * trace.top.macs)]
        made = [_row(part.name, group, weights, size) for group in _grouped(calls)]
        made.append(Row(part.name, "elsewhere", 0, part.macs - sum(row.macs for row in made), peak_bytes=part.peak))
        rows += made
    rows[-1] = dataclasses.replace(rows[-1], params=total - sum(row.params for row in rows))
    rows = [row for row in rows if row.module != "elsewhere" or row.params or row.macs]
    top = dataclasses.replace(trace.top, shape=tuple(answer.shape[1:]), planes=fields.planes.get(answer))
    return rows, dataclasses.replace(_row("", [top], {}, size), params=total)


def _run(student: Student, image: Tensor, trace: Trace) -> Tensor:
    """What `probe` does, part by part."""
    if not isinstance(student, Promptable):
        with trace.part(""):
            return student.probe(image)
    size = (image.shape[2], image.shape[3])
    with trace.part("image"):
        maps = student.embed(image)
    with trace.part("prompt"):
        click = image.new_tensor([[[size[1] / 2, size[0] / 2]]])
        masks, _ = student.low_masks(maps, size, *corners(click, image.new_ones(1, 1), None))
        return student.enlarge(masks, size)


def _open(call: Call, large: float) -> list[Call]:
    """A call, or, if it is large and made of more than single layers, those inside it."""
    if call.macs <= large or not any(each.inside for each in call.inside.values()):
        return [call]
    return [part for each in call.inside.values() for part in _open(each, large)]


def _grouped(calls: Sequence[Call]) -> list[list[Call]]:
    """Neighbours that do the same, or only finish what the one before made (a norm, an activation), as one."""
    groups: list[list[Call]] = []
    for call in calls:
        before = groups[-1][-1] if groups else None
        if before and before.shape == call.shape and (call.macs == 0 or call.macs == before.macs):
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


def _row(part: str, calls: Sequence[Call], weights: dict[str, int], size: tuple[int, int]) -> Row:
    """Calls as a row; it takes their parameters out of `weights`, so that those used twice count once."""
    own = [key for key in weights if any(key.startswith(f"{call.name}.") for call in calls)]
    worked = [call for call in calls if call.macs] or calls
    last = calls[-1]
    return Row(
        part,
        calls[0].name if len(worked) == 1 else f"{worked[0].name} to {worked[-1].name}",
        params=sum(weights.pop(key) for key in own),
        macs=sum(call.macs for call in calls),
        shape=last.shape,
        stride=_stride(last.shape, size),
        output_bytes=4 * math.prod(last.shape),
        peak_bytes=max(call.peak for call in calls),
        field=field(last.planes),
    )


def _stride(shape: Sequence[int], size: tuple[int, int]) -> tuple[int, int] | None:
    """Of a map `[C, h, w]`, or of tokens `[T, C]` if they are those of a map."""
    height, width = size
    if len(shape) == 3:
        return round(height / shape[1]), round(width / shape[2])
    stride = round(math.sqrt(height * width / shape[0])) if shape else 0
    return (stride, stride) if stride and -(-height // stride) * -(-width // stride) == shape[0] else None

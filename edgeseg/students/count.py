"""What a student costs, counted and not typed: parameters, multiply-accumulates, the maps it makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.students.student import Student, create


def macs(student: Student, size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of `size` (height, width)."""
    device = next(student.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.eval().probe(torch.empty(1, 3, *size, device=device))
    return int(counter.get_total_flops()) // 2


def card(name: str, classes: int, size: tuple[int, int]) -> dict[str, Any]:
    """A student in numbers; nothing is allocated for it."""
    with torch.device("meta"):
        student = create(name, classes=classes)
    return {
        "name": name,
        "task": student.task,
        "classes": classes,
        "size": list(size),
        "params": sum(value.numel() for value in student.deployed_parameters()),
        "macs": macs(student, size),
        "multiple": student.multiple,
        "features": [dataclasses.asdict(stage) for stage in student.feature_info],
        "licence": student.licence,
        "paper": student.paper,
        "claims": [dataclasses.asdict(claim) for claim in student.claims],
    }

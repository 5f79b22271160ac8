"""The students: one file per family, one name here."""

from __future__ import annotations

import sys
from types import ModuleType

from edgeseg.models import ddrnet, lraspp  # noqa: F401 (each registers its students)
from edgeseg.models.layers import fuse
from edgeseg.models.student import STUDENTS, Claim, Stage, Student, create, register, upsample

__all__ = ["STUDENTS", "Claim", "Stage", "Student", "create", "fuse", "register", "upsample"]


class _Callable(ModuleType):
    """`es.models()` lists the names, and `edgeseg.models` is this package: importing it must not take the call away."""

    def __call__(self) -> list[str]:
        return list(STUDENTS)


sys.modules[__name__].__class__ = _Callable

"""The students: one file per family, one name here."""

from edgeseg.students import ddrnet, ffnet, lraspp, pp_mobileseg, rwkv_sam, rwkv_seg, squeeze_sam  # noqa: F401 (each registers its students)
from edgeseg.students.layers import fuse
from edgeseg.students.promptable import Features, Promptable
from edgeseg.students.student import STUDENTS, Claim, Semantic, Stage, Student, create, register, upsample

__all__ = [
    "STUDENTS",
    "Claim",
    "Features",
    "Promptable",
    "Semantic",
    "Stage",
    "Student",
    "create",
    "fuse",
    "register",
    "upsample",
]

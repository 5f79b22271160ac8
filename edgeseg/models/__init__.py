"""The students: one file per family, one line here."""

from edgeseg.models import ddrnet, lraspp
from edgeseg.models.layers import fuse
from edgeseg.models.student import STUDENTS, Claim, Stage, Student, create, register, upsample

__all__ = ["STUDENTS", "Claim", "Stage", "Student", "create", "ddrnet", "fuse", "lraspp", "register", "upsample"]

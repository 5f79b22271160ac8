"""The command line: one file per verb or two, each a thin face of a Python function. `--help` lists them in this order."""

from edgeseg.cli import doctor, models, info, train, distill, embed, tune, evaluate, export, quantize, build, measure, profile, devices, sweep, ops, records, report, replay, hub, quickstart  # noqa: F401, I001  # fmt: skip
from edgeseg.cli.app import main

__all__ = ["main"]

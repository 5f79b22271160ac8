"""The community's table: measurements of devices that others own, each with its proof and every sample, one file each.

A table is a folder with a folder per device, e.g. `benchmarks/results/raspberry-pi-5-model-b-rev-1.0/`. Files come by pull
request, and nobody there trusts a figure: `check` computes all of them again from the samples.
"""

from edgeseg.community.check import check_file, check_table, refusals
from edgeseg.community.submission import Proof, Submission, file_in, proof_of, submission
from edgeseg.community.table import markdown, read_submission, read_table

__all__ = [
    "Proof",
    "Submission",
    "check_file",
    "check_table",
    "file_in",
    "markdown",
    "proof_of",
    "read_submission",
    "read_table",
    "refusals",
    "submission",
]

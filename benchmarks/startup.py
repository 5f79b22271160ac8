"""How long it takes until the command line and the package are there, from the start of the interpreter to its end."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from benchmarks.ratio import Finding, finding
from edgeseg.errors import EdgesegError

RUNS = 15

CASES = (
    ("edgeseg --help", "from edgeseg.cli import main; code = main(['--help'])", 0.5),
    ("import edgeseg", "import edgeseg; code = 0", 0.3),
)
"""Name, the program, the most it may take in seconds."""

ENDING = "; import sys; sys.exit(code or 'torch was imported' * ('torch' in sys.modules) or None)"


def seconds(name: str, program: str) -> float:
    """The time of one run.

    Raises:
        EdgesegError: it failed, or it imported torch.
    """
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program + ENDING], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise EdgesegError(f"{name} did not run as it should, so it has no speed: {why[0]}")
    return time.perf_counter() - begun


def findings(runs: int = RUNS) -> list[Finding]:
    """Seconds of each case; the first run, which fills the disk cache, is not counted."""
    found = []
    for name, program, limit in CASES:
        logs = np.log([seconds(name, program) for _ in range(runs + 1)][1:])
        found.append(finding(name, [logs], limit, unit="s"))
    return found

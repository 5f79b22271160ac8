"""Processes that learn together: what is said when one of them is gone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

PATIENCE = 30.0
"""Seconds that this process is given to notice by itself that another one is gone."""


def died() -> str:
    """What to say, and what to do then."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "a process of this training died; torchrun begins all of them anew while --max-restarts allows, then go on with --resume"
    return "a process of this training died; go on with --resume (or start it with torchrun, which restarts it)"


def tells_of_a_death(error: RuntimeError) -> bool:
    """Whether an error of PyTorch is that of a process whose partner in a sum is gone."""
    backend = any(kind.__name__ == "DistBackendError" for kind in type(error).__mro__)  # NCCL's
    return backend or re.search(r"gloo/transport/\w+/(pair|unbound_buffer)\.cc", str(error)) is not None


def watch(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End this process with a line when one of those that it began has died.

    gloo tells of that at once, in the next sum; with NCCL a process would wait for a long time.
    """

    def look() -> None:
        while True:
            codes = [process.poll() for process in processes]
            if any(codes):
                break
            if None not in codes:
                return
            time.sleep(1)
        time.sleep(PATIENCE)
        print(f"error: {died()}", file=sys.stderr, flush=True)
        os._exit(1)  # whatever waits in a sum cannot be asked to leave it

    threading.Thread(target=look, name="watch", daemon=True).start()

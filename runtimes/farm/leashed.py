"""`python -m edgeseg.runtimes.farm.leashed VERB ...`: the command line, ended when whoever started it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

from edgeseg.cli import main


def leash() -> None:
    """Wait for the end of stdin, which a parent that was killed closes too. What we started notices in the same way."""
    while os.read(0, 4096):  # a read through sys.stdin would hold its lock, which Python wants at its end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=leash, daemon=True).start()
    sys.exit(main(sys.argv[1:]))

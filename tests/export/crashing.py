"""Targets that go wrong in ways that only another process survives; `--trust tests.export.crashing` brings them."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeseg.export.deployed import Network
from edgeseg.export.target import Target, Written, register


@register()
@dataclass(frozen=True)
class Crashing(Target):
    """Writes half a file and dies; `way` says how."""

    name: ClassVar[str] = "crashing"
    tools: ClassVar[tuple[str, ...]] = ()
    way: str = "segv"

    def write(self, network: Network, folder: Path) -> Written:
        """Nothing that could be used."""
        (folder / "model.half").write_bytes(b"half")
        if self.way == "hang":
            time.sleep(3600)
        if self.way == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.way == "full":
            raise OSError(28, "No space left on device", str(folder / "model.half"))
        print("the converter says something on stdout")
        sys.stderr.write("and its last words on stderr\n")
        sys.stderr.flush()
        os._exit(3)

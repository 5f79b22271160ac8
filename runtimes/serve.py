"""The inner end of a process that works for another: JSON requests on stdin, a JSON line on stdout for each.

The answers go where stdout was; stdout itself becomes stderr first, so that nothing a runtime prints can be taken for an
answer. The process ends with its stdin. `launch.py` has the other end.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import IO, Any

from edgeseg.errors import EdgesegError


class Servant:
    """What answers: every public method is a request, its arguments what the request says, its result the answer."""

    answers: IO[str] | None = None

    def tell(self, done: int, all_: int) -> None:
        """Say how far the answer is, while it is being made."""
        self._write({"progress": [done, all_]})

    def serve(self) -> None:
        """Answer until stdin ends."""
        self.answers = _take_stdout()
        _die_with_parent()
        for line in sys.stdin:
            self._write(answer(self, line))

    def _write(self, document: dict[str, Any]) -> None:
        if self.answers is not None:
            self.answers.write(json.dumps(document) + "\n")
            self.answers.flush()


def answer(servant: object, line: str) -> dict[str, Any]:
    """The answer to one request; a mistake of the caller is an answer too."""
    request = json.loads(line)
    try:
        result: dict[str, Any] = getattr(servant, request.pop("do"))(**request)
    except EdgesegError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return result


def _take_stdout() -> IO[str]:
    """The real stdout for us alone; what anybody prints goes to stderr, from C too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _die_with_parent() -> None:
    """On Linux, a parent that is killed takes this process with it, in the middle of its work too."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)

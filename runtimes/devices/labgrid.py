"""A board of a labgrid, for labs with many hosts: its place is acquired before anything runs there and released after it; ssh does the rest.

labgrid (https://labgrid.readthedocs.io, LGPL-2.1) is asked through its own `labgrid-client`.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from edgeseg import schema
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices.base import DEVICES
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.ssh import Ssh, target
from edgeseg.runtimes.devices.tokens import Token, claim, token_path
from edgeseg.runtimes.launch import Died

CLIENT = "labgrid-client"

CLIENT_S = 30.0
"""It answers within a second, from a coordinator that is there."""

ACQUIRED = "acquired"
"""The folder of the tokens: a place that a killed run has left acquired is known by it from one that its user acquired."""

RESOURCE = re.compile(r"^Acquired resource .*:\n((?:  .*\n?)+)", re.MULTILINE)
"""What `labgrid-client show` says of a place that one has: a Python literal for each resource."""


class Labgrid(Ssh):
    """`labgrid://PLACE`, or `labgrid://HOST:PORT/PLACE` of a coordinator that LG_COORDINATOR does not name."""

    kind: ClassVar[str] = "labgrid"

    def __init__(self, address: str, entry: Entry, coordinator: str, place: str) -> None:
        super().__init__(address, entry, [])  # where it is, the place says once it is acquired
        self._coordinator, self._place = coordinator, place
        self._token: Path | None = None

    def reach(self) -> None:
        """Acquire the place and find its NetworkService, if that was not done.

        Raises:
            Died: somebody else has it. MissingTool: there is no such place, or nobody to ask.
        """
        if self._where:
            return
        self._acquire()
        try:
            self._where = where(self._ask("show"), self.address)
        except EdgesegError:
            self._release()
            raise

    def command(self, words: Sequence[str]) -> list[str]:
        """ssh to the place."""
        self.reach()
        return super().command(words)

    def close(self) -> None:
        """End the agent and the connection, and let others have the place."""
        super().close()
        self._where = []
        self._release()

    def _acquire(self) -> None:
        path = token_path(ACQUIRED, self.url)
        left = False
        if path.exists():
            token = schema.read(Token, path)
            if token.alive:
                raise Died(f"{self.address} is in use by process {token.pid} here; wait until that is over", "busy")
            left = True
            path.unlink()
        token_file = claim(ACQUIRED, self.url, {})
        try:
            self._ask("acquire")
        except Owned:
            if not left:  # its user has acquired it for longer, and so keeps it
                token_file.unlink()
                return
        except EdgesegError:
            token_file.unlink()
            raise
        self._token = token_file

    def _release(self) -> None:
        if self._token is not None:
            with suppress(EdgesegError):  # the coordinator is gone: then nothing is acquired from it
                self._ask("release")
            self._token.unlink(missing_ok=True)
        self._token = None

    def _ask(self, do: str) -> str:
        words = [client(), *(["-x", self._coordinator] if self._coordinator else []), "-p", self._place, do]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=CLIENT_S, check=False)
        except subprocess.TimeoutExpired:
            raise MissingTool(
                f"{CLIENT} says nothing for {CLIENT_S:g} s of {self.address}; is its coordinator there?"
            ) from None
        if done.returncode:
            raise self._meant(done.stderr)
        return done.stdout

    def _meant(self, words: str) -> EdgesegError:
        """What labgrid-client said, in our words."""
        said = [line.strip() for line in words.splitlines() if line.strip()]
        last = said[-1].partition("Error: ")[2] if said and "Error: " in said[-1] else (said or ["it said nothing"])[-1]
        if re.fullmatch(r"You have already acquired place \S+\.", last):
            return Owned(last)
        if "already acquired" in last:
            return Died(f"{self.address} is not free: {last}", "busy")
        if "matches nothing" in last:
            return MissingTool(f"labgrid has no place {self._place}; `labgrid-client places` lists them")
        if "connect to coordinator" in last:
            here = self._coordinator or os.environ.get("LG_COORDINATOR", "127.0.0.1:20408")
            return MissingTool(f"no labgrid-coordinator answers at {here}; LG_COORDINATOR=HOST:PORT names another")
        return EdgesegError(f"labgrid-client does not give {self.address}: {last}")


class Owned(EdgesegError):
    """The place is acquired by this user on this machine already."""


def client() -> str:
    """labgrid-client, beside this Python or on the PATH.

    Raises:
        MissingTool: it is at neither.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(CLIENT, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise MissingTool("labgrid is not installed; pip install 'edgeseg[labgrid]'")
    return found


def where(shown: str, address: str) -> list[str]:
    """Words for ssh, from what `labgrid-client show` says of a place.

    Raises:
        EdgesegError: the place has no NetworkService, or several. MissingTool: its exporter is gone.
    """
    found: list[dict[str, Any]] = [
        ast.literal_eval(textwrap.dedent(block))
        for block in RESOURCE.findall(shown if shown.endswith("\n") else f"{shown}\n")
    ]
    services = [each for each in found if each["cls"] == "NetworkService"]
    if len(services) != 1:
        have = ", ".join(each["cls"] for each in found) or "no resource"
        raise EdgesegError(f"{address} must have one NetworkService, the board's sshd, in labgrid; it has {have}")
    (service,) = services
    if not service["avail"]:
        raise MissingTool(f"the exporter of {address} is not there, so nobody knows where the board is")
    params = service["params"]
    host = f"[{params['address']}]" if ":" in params["address"] else params["address"]
    extra = params.get("extra", {})
    words = target(f"ssh://{params['username']}@{host}:{params.get('port', 22)}")
    return [*(["-J", target(f"ssh://{extra['proxy']}")[-1]] if extra.get("proxy_required") else []), *words]


def labgrid(address: str, entry: Entry) -> Labgrid:
    """A place of a labgrid. Nothing is asked yet.

    Raises:
        EdgesegError: the address is none. MissingTool: there is no labgrid-client, or no ssh.
    """
    parts = urlsplit(entry.url)
    coordinator, place = (parts.netloc, parts.path.strip("/")) if parts.path.strip("/") else ("", parts.netloc)
    if not re.fullmatch(r"\w[\w.+-]*", place) or not re.fullmatch(r"|[\w.-]+:\d+", coordinator):
        raise EdgesegError(f"{entry.url!r} is no place; write labgrid://PLACE or labgrid://HOST:PORT/PLACE")
    client()
    if shutil.which("ssh") is None:
        raise MissingTool("ssh is not installed; apt-get install openssh-client")
    return Labgrid(address, entry, coordinator, place)


DEVICES.add("labgrid", labgrid)

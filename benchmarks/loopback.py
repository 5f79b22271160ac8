"""A real sshd on this machine, reached at 127.0.0.1 with a key made for it; it needs no root and no setting of yours."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edgeseg.errors import MissingTool
from edgeseg.runtimes.devices import Entry

CONFIG = """Port {port}
ListenAddress {host}
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
"""
CLIENT = """Host *
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
"""
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
START_S = 10


@dataclass
class Server:
    """A running sshd and how to reach it. `before`: words in front of it, that put it into another network."""

    folder: Path
    port: int
    host: str = "127.0.0.1"
    before: Sequence[str] = ()

    @property
    def url(self) -> str:
        """Its address."""
        return f"ssh://{getpass.getuser()}@{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that listens."""
        return int((self.folder / "pid").read_text())

    def entry(self, folder: Path, **other: Any) -> Entry:
        """A device that keeps its files in `folder`."""
        given: dict[str, Any] = {
            "python": sys.executable,
            "folder": str(folder / "device"),
            "ssh_config": str(self.folder / "client"),
        }
        return Entry(self.url, **given | other)

    def know(self, key: str) -> None:
        """Write what is known of its key."""
        kind, data = key.split()[:2]
        (self.folder / "known").write_text(f"[{self.host}]:{self.port} {kind} {data}\n")

    def start(self) -> None:
        """Raises MissingTool where none starts."""
        if SSHD is None or shutil.which("ssh") is None:
            raise MissingTool("sshd or ssh is not installed; apt-get install openssh-server")
        # an absolute path: sshd starts itself again
        words = [*self.before, SSHD, "-f", str(self.folder / "config"), "-E", str(self.folder / "log")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            log = (self.folder / "log").read_text().strip().splitlines()
            raise MissingTool(f"sshd does not start here: {done.stderr.strip() or log[-1:]}")
        deadline = time.monotonic() + START_S
        while not (self.folder / "pid").exists():
            if time.monotonic() > deadline:
                raise MissingTool(f"sshd did not start within {START_S} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and all its sessions, as when a board loses its power."""
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            server = psutil.Process(self.pid)
            for process in [server, *server.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            (self.folder / "pid").unlink(missing_ok=True)


@contextmanager
def served(folder: Path, host: str = "127.0.0.1", before: Sequence[str] = ()) -> Iterator[Server]:
    """A server whose files are in an absolute `folder`.

    Raises:
        MissingTool: there is none, or it does not start here.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Server(folder, free.getsockname()[1], host, before)
    if SSHD is None:
        raise MissingTool("sshd is not installed; apt-get install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "config").write_text(CONFIG.format(port=made.port, folder=folder, host=host))
    (folder / "client").write_text(CLIENT.format(folder=folder))
    made.know((folder / "host.pub").read_text())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    made.start()
    try:
        yield made
    finally:
        made.stop()

"""A device behind the plain OpenSSH client, with the user's own keys, agent, jump hosts and ~/.ssh/config."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices.base import DEVICES
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.channel import PATIENCE_S
from edgeseg.runtimes.devices.remote import Remote

OPTIONS = {
    "BatchMode": "yes",  # no question that nobody answers
    "StrictHostKeyChecking": "yes",  # whatever the user's configuration says
    "ConnectTimeout": "10",
    "ServerAliveInterval": "2",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",  # one handshake for all commands
    "ControlPersist": "30",
}

REFUSED, GONE = EdgesegError, MissingTool

WORDS: tuple[tuple[str, type[EdgesegError], str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        REFUSED,
        "the host key of {where} is not the one that is known; find out why, then {forget}",
    ),
    (
        "Host key verification failed|host key is known",
        REFUSED,
        "the host key of {where} is not known here; compare its fingerprint once: {ssh}",
    ),
    (
        "Permission denied",
        REFUSED,
        "{where} lets nobody in without a password; {copy}, and is the user right?",
    ),
    (
        "Could not resolve hostname",
        GONE,
        "the name in {where} leads to no machine from here; is it right, or is the IP address better?",
    ),
    (
        "Connection refused|No route to host|timed out|Network is unreachable|Connection reset|Connection closed",
        GONE,
        "{where} cannot be reached: {words}; is it on, and does sshd run there?",
    ),
    ("", GONE, "{where} ended the connection with exit code {code}: {words}"),
)
"""What ssh says -> the kind of error, and what to say instead."""


class Ssh(Remote):
    """`ssh://user@host:port`, or a host of ~/.ssh/config; `where`: that, as words for ssh."""

    kind: ClassVar[str] = "ssh"

    def __init__(self, address: str, entry: Entry, where: list[str], patience_s: float = PATIENCE_S) -> None:
        super().__init__(address, entry, patience_s)
        self._where = where
        self._sockets: str | None = None

    @property
    def _config(self) -> list[str]:
        return ["-F", self.entry.ssh_config] if self.entry.ssh_config else []

    def _ssh(self, *more: str) -> list[str]:
        if self._sockets is None:
            # a socket's path has at most 104 characters: not below the user's own, possibly long, TMPDIR
            self._sockets = tempfile.mkdtemp(prefix="edgeseg-", dir="/tmp" if Path("/tmp").is_dir() else None)
        options = {**OPTIONS, "ControlPath": f"{self._sockets}/%C"}
        words = [f"-o{name}={value}" for name, value in options.items()]
        return ["ssh", "-T", *self._config, *words, *more, *self._where]

    def command(self, words: Sequence[str]) -> list[str]:
        """ssh, and what its user's shell there takes for these words."""
        return [*self._ssh(), shlex.join(words)]

    def explain(self, code: int, words: str) -> EdgesegError:
        """What ssh, or the shell there, meant."""
        if code in (126, 127):
            return MissingTool(
                f"no {self.entry.python} on {self.address}; apt-get install python3 python3-pip there, or name one with --python"
            )
        kind, line = next((kind, line) for pattern, kind, line in WORDS if re.search(pattern, words))
        last = words.splitlines()[-1].strip() if words else "it said nothing"
        to_do = {
            "ssh": shlex.join(["ssh", *self._config, *self._where]),
            "copy": shlex.join(["ssh-copy-id", *self._config, *(word for word in self._where if word != "--")]),
            "forget": shlex.join(["ssh-keygen", *self._known(words)]),
        }
        return kind(line.format(where=self._where[-1], code=code, words=last, **to_do))

    def _known(self, words: str) -> list[str]:
        """How ssh-keygen removes the host's key: by the name, and from the file, that ssh says it has it under."""
        port, host = self._where[1:-2], self._where[-1].rpartition("@")[2]
        name, file = re.search(r"Host key for (\S+) has changed", words), re.search(r"Offending .* in (.+):\d+", words)
        own = f"[{host}]:{port[0]}" if port and port[0] != "22" else host
        elsewhere = ["-f", file[1]] if file and self.entry.ssh_config else []
        return [*elsewhere, "-R", name[1] if name else own]

    def close(self) -> None:
        """End the agent and the connection that all commands share."""
        super().close()
        if self._sockets is not None:
            with suppress(subprocess.TimeoutExpired):  # it ends after 30 s anyway
                subprocess.run(self._ssh("-Oexit"), capture_output=True, check=False, timeout=5)
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None


def target(url: str) -> list[str]:
    """`ssh://user@host:port` as words for ssh.

    Raises:
        EdgesegError: it is none, or one that ssh would take for an option.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    # as it was written: names in ~/.ssh/config have capitals, which `hostname` has not
    host = re.sub(r":\d*$", "", parts.netloc.rpartition("@")[2]).strip("[]") if parts.hostname else ""
    if parts.scheme != "ssh" or not host or parts.path.strip("/") or parts.query or parts.password is not None:
        raise EdgesegError(
            f"{url!r} is no address of a device; write ssh://user@host, ssh://user@host:2222, ssh://host"
        )
    if f"{parts.username or ''}{host}".startswith("-") or re.search(r"[\s'\"\\;|&$`]", url):
        raise EdgesegError(f"{url!r} has what no user and no host has")
    name = f"{parts.username}@{host}" if parts.username else host
    return [*(["-p", str(port)] if port else []), "--", name]


def ssh(address: str, entry: Entry) -> Ssh:
    """A device behind ssh.

    Raises:
        MissingTool: there is no ssh here.
    """
    if shutil.which("ssh") is None:
        raise MissingTool("ssh is not installed; apt-get install openssh-client")
    return Ssh(address, entry, target(entry.url))


DEVICES.add("ssh", ssh)

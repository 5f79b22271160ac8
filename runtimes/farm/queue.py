"""What is to be measured where, on disk: every job is done once, and a kill loses none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgeseg.errors import EdgesegError

State: TypeAlias = Literal["waiting", "leased", "done", "invalid", "failed"]
"""`invalid`: measured, but not to be quoted. `failed`: it cannot be measured, which is a result too."""

TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, pool TEXT, artifact TEXT, sha256 TEXT, threads INTEGER, protocol TEXT,
    state TEXT DEFAULT 'waiting', tries INTEGER DEFAULT 0, device TEXT, record TEXT, reason TEXT,
    UNIQUE (pool, artifact, sha256, threads, protocol));
CREATE TABLE IF NOT EXISTS exports (name TEXT PRIMARY KEY, wanted TEXT, state TEXT, reason TEXT);
"""


@dataclass(frozen=True)
class Outcome:
    """How a job went. `device`: it was the device's fault, and another one may fare better."""

    state: State
    record: str | None = None
    reason: str | None = None
    device: bool = False


@dataclass(frozen=True)
class Job:
    """One measurement. `pool`: the devices that are alike, one of which takes it; `tries`: how often it was begun."""

    pool: str
    artifact: str
    sha256: str
    threads: int
    protocol: str
    id: int = 0
    tries: int = 0
    state: State = "waiting"
    device: str | None = None
    record: str | None = None
    reason: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What it is of."""
        return self.pool, self.artifact, self.sha256, self.threads, self.protocol


COLUMNS = "pool, artifact, sha256, threads, protocol, id, tries, state, device, record, reason"


class Queue:
    """Jobs in a file of SQLite. `with Queue(path).held() as queue:` keeps everybody else out, and takes back what a kill left leased.

    Raises:
        EdgesegError: the file is none of ours, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._base = sqlite3.connect(path, isolation_level=None, timeout=1)
            # whoever has written to it holds it until the end, also against readers; a kill lets go of it
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.executescript(TABLES)
        except sqlite3.OperationalError as error:
            raise EdgesegError(
                f"{path} is held by another sweep ({error}); wait for it, or give another --out"
            ) from error
        except sqlite3.DatabaseError as error:
            raise EdgesegError(
                f"{path} is no queue of edgeseg ({error}); move it away, or give another --out"
            ) from error

    @contextmanager
    def held(self) -> Iterator[Queue]:
        """The queue for as long as the block lasts."""
        try:
            self._base.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'leased'")
            yield self
        finally:
            self._base.close()

    def forget(self) -> None:
        """Let what ended badly be done again."""
        for table in ("jobs", "exports"):
            self._base.execute(f"DELETE FROM {table} WHERE state IN ('invalid', 'failed')")

    def want(self, jobs: Iterable[Job]) -> None:
        """Let these wait and no others. What has ended stays ended."""
        sql = "INSERT OR IGNORE INTO jobs (pool, artifact, sha256, threads, protocol) VALUES (?, ?, ?, ?, ?)"
        self._base.execute("BEGIN")
        self._base.execute("DELETE FROM jobs WHERE state = 'waiting'")
        self._base.executemany(sql, [job.key for job in jobs])
        self._base.execute("COMMIT")

    def export(self, name: str, wanted: str) -> Outcome | None:
        """How the making of an artifact ended that was to be just that; null where it did not end yet."""
        found = self._base.execute("SELECT state, reason FROM exports WHERE name = ? AND wanted = ?", (name, wanted))
        return next((Outcome(state, None, reason) for state, reason in found), None)

    def keep_export(self, name: str, wanted: str, outcome: Outcome) -> None:
        """Say how the making of an artifact ended; one that waits is forgotten."""
        self._base.execute("DELETE FROM exports WHERE name = ?", (name,))
        if outcome.state != "waiting":
            sql = "INSERT INTO exports VALUES (?, ?, ?, ?)"
            self._base.execute(sql, (name, wanted, outcome.state, outcome.reason))

    def lease(self, pool: str, device: str) -> Job | None:
        """The next job that a device of a pool may take; null when none waits."""
        found = self._select("WHERE state = 'waiting' AND pool = ? ORDER BY tries, id LIMIT 1", pool)
        if not found:
            return None
        sql = "UPDATE jobs SET state = 'leased', tries = tries + 1, device = ? WHERE id = ?"
        self._base.execute(sql, (device, found[0].id))
        return self._select("WHERE id = ?", found[0].id)[0]

    def end(self, job: Job, state: State, record: str | None, reason: str | None) -> None:
        """Say how a job ended; `waiting` puts it back."""
        sql = "UPDATE jobs SET state = ?, record = ?, reason = ? WHERE id = ? AND state = 'leased'"
        if self._base.execute(sql, (state, record, reason, job.id)).rowcount != 1:
            raise EdgesegError(f"{self.path}: job {job.id} is not leased; was the file changed by hand?")

    def leased(self, pool: str) -> bool:
        """Whether a device of a pool is at work, whose job may come back."""
        return bool(self._select("WHERE state = 'leased' AND pool = ? LIMIT 1", pool))

    def jobs(self) -> list[Job]:
        """All of them, in the order in which they were added."""
        return self._select("ORDER BY id")

    def _select(self, where: str, *values: object) -> list[Job]:
        return [Job(*row) for row in self._base.execute(f"SELECT {COLUMNS} FROM jobs {where}", values)]

"""How long to measure. `parse("quick")` gives the rule a record will carry."""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import get_close_matches

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.runtimes.record import Protocol

PROTOCOLS: Registry[Protocol] = Registry("protocol")
"""`smoke` shows that the way works and is no figure to quote; the other two are MLPerf Mobile's quick and normal runs."""

SMOKE = "smoke"

for _protocol in (
    Protocol(SMOKE, min_s=1, min_count=64, max_s=20, warmup_count=3, warmup_s=0.2),
    Protocol("quick", min_s=10, min_count=128, max_s=60, warmup_count=3, warmup_s=0.5),
    Protocol("mlperf-mobile", min_s=60, min_count=1024, max_s=600, warmup_count=3, warmup_s=0.5),
):
    PROTOCOLS.add(_protocol.name, _protocol)

UNITS = {"s": 1, "m": 60, "h": 3600}
LEAST = 10
"""Processes of a cold start: no figure is given of fewer samples."""


def parse(text: str) -> Protocol:
    """The protocol of that name, or `sustained:10m`, `camera:30` (frames a second), `offline:4` (at once), `cold-start:20` (processes).

    A camera and offline take a minute, or what is said after another colon, e.g. `camera:30:5m`.

    Raises:
        EdgesegError: there is none; the message has the near names.
    """
    name, _, rest = text.partition(":")
    if name in FAMILIES:
        return FAMILIES[name](text, rest)
    if text not in PROTOCOLS and not get_close_matches(text, PROTOCOLS, n=1, cutoff=0.4):
        every = ", ".join([*PROTOCOLS, "sustained:10m", "camera:30", "offline:4", "cold-start"])
        raise EdgesegError(f"no protocol named {text!r}; there are {every}")
    return PROTOCOLS[text]


def _sustained(text: str, rest: str) -> Protocol:
    seconds = seconds_in(rest)
    if seconds is None:
        raise EdgesegError(f"{text!r} is no time; write sustained:10m, sustained:90s or sustained:1h")
    return replace(_lasting(text, seconds), kind="sustained")


def _camera(text: str, rest: str) -> Protocol:
    """A minute unless told."""
    rate, _, time = rest.partition(":")
    seconds = seconds_in(time or "60s")
    if not re.fullmatch(r"\d+(\.\d+)?", rate) or not 0 < float(rate) <= 1000 or seconds is None:
        raise EdgesegError(f"{text!r} is no camera; write camera:30 (frames a second) or camera:30:5m")
    return replace(_lasting(text, seconds), kind="camera", fps=float(rate))


def _offline(text: str, rest: str) -> Protocol:
    """A minute unless told."""
    count, _, time = rest.partition(":")
    seconds = seconds_in(time or "60s")
    if not count.isdigit() or not 0 < int(count) <= 1024 or seconds is None:
        raise EdgesegError(f"{text!r} is no number of streams; write offline:4 (sessions at once) or offline:4:10s")
    return replace(_lasting(text, seconds), kind="offline", streams=int(count))


def _cold_start(text: str, rest: str) -> Protocol:
    """Twenty processes unless told."""
    if not (rest or "20").isdigit() or int(rest or 20) < LEAST:
        raise EdgesegError(
            f"{text!r} is no number of processes, {LEAST} are the least; write cold-start or cold-start:20"
        )
    count = int(rest or 20)
    return Protocol(text, min_s=0, min_count=count, max_s=60.0 * count, warmup_count=0, warmup_s=0, kind="cold-start")


def _lasting(text: str, seconds: int) -> Protocol:
    # up to a fifth of it may turn out to be warm-up
    return Protocol(text, min_s=seconds, min_count=64, max_s=1.25 * seconds + 10, warmup_count=3, warmup_s=0.5)


def seconds_in(text: str) -> int | None:
    """`10m` as 600; null for anything else, and for no time at all."""
    found = re.fullmatch(r"(\d+)([smh])", text)
    return int(found[1]) * UNITS[found[2]] or None if found else None


FAMILIES = {"sustained": _sustained, "camera": _camera, "offline": _offline, "cold-start": _cold_start}
"""Protocols with a number in their name."""

"""How long to measure. `parse("quick")` gives the rule a record will carry."""

from __future__ import annotations

import re

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.runtimes.record import Protocol

PROTOCOLS: Registry[Protocol] = Registry("protocol")
"""`smoke` shows that the way works and is no figure to quote; the other two are MLPerf Mobile's quick and normal runs."""

for _protocol in (
    Protocol("smoke", min_s=1, min_count=64, max_s=20, warmup_count=3, warmup_s=0.2),
    Protocol("quick", min_s=10, min_count=128, max_s=60, warmup_count=3, warmup_s=0.5),
    Protocol("mlperf-mobile", min_s=60, min_count=1024, max_s=600, warmup_count=3, warmup_s=0.5),
):
    PROTOCOLS.add(_protocol.name, _protocol)

UNITS = {"s": 1, "m": 60, "h": 3600}


def parse(text: str) -> Protocol:
    """The protocol of that name, or `sustained:10m` for any time in s, m or h.

    Raises:
        EdgesegError: there is none; the message has the near names.
    """
    if not text.startswith("sustained"):
        return PROTOCOLS[text]
    found = re.fullmatch(r"sustained:(\d+)([smh])", text)
    if found is None or not int(found[1]):
        raise EdgesegError(f"{text!r} is no time; write sustained:10m, sustained:90s or sustained:1h")
    seconds = int(found[1]) * UNITS[found[2]]
    return Protocol(text, min_s=seconds, min_count=64, max_s=1.1 * seconds + 10, warmup_count=3, warmup_s=0.5)

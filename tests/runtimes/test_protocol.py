"""Protocols by name."""

from __future__ import annotations

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.protocol import PROTOCOLS, parse


def test_every_protocol_can_end_well() -> None:
    for name in PROTOCOLS:
        protocol = parse(name)
        assert protocol.name == name
        assert 0 < protocol.min_s < protocol.max_s
        assert protocol.min_count >= 64  # below, p90 is refused
        assert protocol.warmup_count >= 3


def test_quick_and_mlperf_mobile_are_the_rules_of_mlperf_mobile() -> None:
    assert [(p.min_s, p.min_count, p.max_s) for p in map(parse, ("quick", "mlperf-mobile"))] == [
        (10, 128, 60),
        (60, 1024, 600),
    ]


@pytest.mark.parametrize(("text", "seconds"), [("sustained:90s", 90), ("sustained:10m", 600), ("sustained:1h", 3600)])
def test_sustained_takes_a_time(text: str, seconds: float) -> None:
    assert (parse(text).name, parse(text).min_s) == (text, seconds)


@pytest.mark.parametrize(
    ("text", "fps", "seconds"), [("camera:30", 30, 60), ("camera:12.5:5m", 12.5, 300), ("camera:60:10s", 60, 10)]
)
def test_a_camera_takes_a_rate_and_a_time(text: str, fps: float, seconds: float) -> None:
    found = parse(text)
    assert (found.name, found.kind, found.fps, found.min_s) == (text, "camera", fps, seconds)
    assert not found.back_to_back


@pytest.mark.parametrize(("text", "streams", "seconds"), [("offline:4", 4, 60), ("offline:1:10s", 1, 10)])
def test_offline_takes_a_number_of_sessions_and_a_time(text: str, streams: int, seconds: float) -> None:
    found = parse(text)
    assert (found.name, found.kind, found.streams, found.min_s) == (text, "offline", streams, seconds)
    assert not found.back_to_back


@pytest.mark.parametrize(("text", "count"), [("cold-start", 20), ("cold-start:10", 10)])
def test_a_cold_start_takes_a_number_of_processes(text: str, count: int) -> None:
    assert (parse(text).kind, parse(text).min_count) == ("cold-start", count)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("quik", "did you mean quick"),
        *((text, "sustained:10m") for text in ("sustained", "sustained:0s", "sustained:1.5m", "sustained:10")),
        *(
            (text, "camera:30")
            for text in ("camera", "camera:0", "camera:x", "camera:30:0s", "camera:nan", "camera:1e9")
        ),
        *((text, "offline:4") for text in ("offline", "offline:0", "offline:x", "offline:2:0s", "offline:-1")),
        *((text, "cold-start:20") for text in ("cold-start:9", "cold-start:x", "cold-start:-20")),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(text: str, hint: str) -> None:
    with pytest.raises(EdgesegError, match=hint):
        parse(text)


def test_a_fifth_may_turn_out_to_be_warm_up() -> None:
    asked = parse("sustained:10m")
    assert 0.8 * asked.max_s >= asked.min_s

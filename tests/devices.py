"""Measurements of devices that do not exist: the real dataclasses, figures computed from generated samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.community import Proof
from edgeseg.ledger import Ledger
from edgeseg.runtimes import statistics
from edgeseg.runtimes.protocol import parse
from edgeseg.runtimes.record import ColdStart, DeviceState, Failure, Record, Samples, Sensors
from edgeseg.runtimes.telemetry.reading import Flag, Reading
from tests.report.stored import GOOD_HOP, MADE, Store

HOST, USER = "kitchen-shelf", "mrs-peel"
BOARD = "Raspberry Pi 5 Model B Rev 1.0"


def measured(
    folder: Path,
    median_ms: float = 22.0,
    protocol: str = "quick",
    seed: int = 0,
    flags: dict[str, Flag] | None = None,
    **changes: Any,
) -> Record:
    """A valid record of a board over ssh, with everything in it that is private."""
    store = Store(folder, images=1)
    base = store.record("out/vino", store.artifact(store.run(), "out/vino", "openvino"), median_ms)
    rule = parse(protocol)
    count = max(rule.min_count, int(1.05 * rule.min_s * 1e3 / median_ms)) + 10
    times = median_ms * np.exp(np.random.default_rng(seed).normal(0, 0.01, count))
    state = DeviceState(0.1, 2400.0, 55.0, "performance", [2400.0])
    modes: dict[str, Flag] = {"cpu0 governor": "performance", "model": f"board of {HOST}", **(flags or {})}
    record = replace(
        timed(base, times),
        device=replace(
            base.device,
            name=HOST,
            kind="ssh",
            address=f"ssh://{USER}@{HOST}.local:2222",
            model=BOARD,
            cpu="Cortex-A76",
            cores=4,
            boot_id="2b1c5e0c-6f63-4a43-9f4a-0d5f4a3f2b11",
            before=state,
            after=state,
        ),
        subject=replace(base.subject, path=f"/home/{USER}/secret/out/vino"),
        protocol=rule,
        execution=replace(base.execution, settings={"plugin": f"/home/{USER}/.cache/edgeseg/libops.so", "spin": "off"}),
        sensors=Sensors(Reading(86_400.5, flags=modes), Reading(86_412.5, flags=modes), [f"said by {HOST}"]),
        energy_mj=41.5,
        energy_source="ina EXT5V",
    )
    if rule.kind == "sustained":
        record = replace(record, sustained=statistics.sustained(record.segments))
    if rule.fps:
        arrivals = (np.arange(count) * 1e9 / rule.fps).astype(np.int64)
        record = replace(record, camera=statistics.camera(arrivals, (times * 1.1e6).astype(np.int64), rule.fps))
    return replace(record, **changes)


def timed(record: Record, times_ms: NDArray[np.float64]) -> Record:
    """The record as if frames had taken so long, with the figures that follow."""
    durations = (times_ms * 1e6).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(durations + 20_000)[:-1]]).astype(np.int64)
    return replace(
        record,
        samples=Samples.pack(starts, durations),
        latency=statistics.latency(starts, durations),
        segments=statistics.segments(starts, durations),
        noise=statistics.self_noise(starts, durations),
    )


def proof(record: Record, **changes: Any) -> Proof:
    """The proof that goes with a record."""
    made = Proof(
        sha256=record.subject.sha256,
        run_sha256="ab" * 32,
        target={"name": record.subject.target},
        precision="fp32",
        tools={"openvino": "2026.2.0"},
        op_tiers={},
        ledger=Ledger("camvid[held]", [GOOD_HOP]),
        accuracy=None,
    )
    return replace(made, **changes)


def throttled(folder: Path) -> Record:
    """Two minutes, the second one slower."""
    record = measured(folder, 22.0, "sustained:2m")
    rng = np.random.default_rng(1)
    times = np.concatenate([22.0 * np.exp(rng.normal(0, 0.02, 2700)), 31.0 * np.exp(rng.normal(0, 0.03, 2000))])
    record = timed(record, times)
    held = statistics.sustained(record.segments)
    return replace(record, sustained=held, valid=False, reasons=[f"throttled: to {held.kept:.0%}"], energy_mj=None)


def slow_camera(folder: Path) -> Record:
    """Frames every 33 ms, and a model that takes 41: some are dropped."""
    record = measured(folder, 41.0, "camera:30:20s")
    taken = np.unique(np.ceil(np.arange(480) * 41.0 * 30 / 1e3).astype(np.int64))
    arrivals = (taken * 1e9 / 30).astype(np.int64)
    ages = (1e6 * (41 + np.random.default_rng(2).uniform(0, 33, len(taken)))).astype(np.int64)
    return replace(record, camera=statistics.camera(arrivals, ages, 30.0))


def cold(folder: Path) -> Record:
    """Twenty first frames."""
    record = measured(folder, 380.0, "cold-start:20", seed=3)
    loads, firsts, readies = (
        (ms * np.exp(np.random.default_rng(5).normal(0, 0.01, 20))).tolist() for ms in (310, 70, 1900)
    )
    load_ms, first_ms, ready_ms = (float(np.median(each)) for each in (loads, firsts, readies))
    found = ColdStart(20, load_ms, first_ms, ready_ms, loads, firsts, readies)
    record = timed(record, np.array(loads) + firsts)  # a sample is both together
    return replace(record, load_ms=load_ms, first_ms=first_ms, cold_start=found)


def failure(record: Record, outcome: str, detail: str, samples: Samples | None) -> Failure:
    """A measurement that came to nothing."""
    where = (record.subject, record.device, 2, record.protocol)
    return Failure(1, "failure", "2026-11-21T08:00:00+00:00", MADE, *where, outcome, detail, samples)

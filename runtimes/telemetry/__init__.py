"""What sensors of devices say while a model runs on them."""

from edgeseg.runtimes.telemetry import (  # noqa: F401 (each registers itself)
    android,
    ina,
    jetson,
    linux,
    powermetrics,
    rapl,
    raspberry,
    tegrastats,
)
from edgeseg.runtimes.telemetry.reading import SENSORS, STREAMS, Here, Place, Reading, Rooted, Sensor, Stream, take

__all__ = ["SENSORS", "STREAMS", "Here", "Place", "Reading", "Rooted", "Sensor", "Stream", "take"]

"""Many measurements on many devices: a queue on disk, and a worker for each device that takes from it."""

from edgeseg.runtimes.farm.queue import Job, Queue
from edgeseg.runtimes.farm.sweep import Outcome, Sweep, measured, run, swept

__all__ = ["Job", "Outcome", "Queue", "Sweep", "measured", "run", "swept"]

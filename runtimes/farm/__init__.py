"""Many artifacts and measurements on many devices: a queue on disk, and a worker for each device that takes from it."""

from edgeseg.runtimes.farm.exports import Exports, Order
from edgeseg.runtimes.farm.queue import Job, Outcome, Queue
from edgeseg.runtimes.farm.sweep import Sweep, Swept, measured, run, swept

__all__ = ["Exports", "Job", "Order", "Outcome", "Queue", "Sweep", "Swept", "measured", "run", "swept"]

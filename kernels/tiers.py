"""Every way an operator can run on this machine: what `edgeseg ops test` and `ops bench` go through, a file for each runtime."""

from __future__ import annotations

from edgeseg.kernels import tiers_coreml, tiers_executorch, tiers_litert, tiers_onnx, tiers_torch  # noqa: F401 (each registers its own)
from edgeseg.kernels.tier import TIERS, Run, Tier, Work

__all__ = ["TIERS", "Run", "Tier", "Work", "quick", "timed"]


def timed() -> list[str]:
    """The tiers whose time says something about a device."""
    return [name for name in TIERS if not TIERS[name].simulated]


def quick() -> list[str]:
    """The tiers that open at once."""
    return [name for name in TIERS if not TIERS[name].converted]

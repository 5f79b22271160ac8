"""Training: a recipe, a task, one loop."""

from edgeseg.train import promptable, semantic  # noqa: F401 (each registers its task)

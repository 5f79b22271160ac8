"""The process that exports and verifies for another: `python -m edgeseg.export.worker`, started fresh for every artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.data import load_data
from edgeseg.errors import import_trusted
from edgeseg.export import export_model, from_options
from edgeseg.export.apart import Job
from edgeseg.runs import load_run
from edgeseg.runtimes.serve import Servant


class Exporter(Servant):
    """One student, one artifact."""

    def export(self, job: dict[str, Any]) -> dict[str, Any]:
        """Export and prove; the artifact is in its folder."""
        todo = schema.parse(Job, job, "the request")
        for module in todo.trust:
            import_trusted(module)
        data = None if todo.data is None else load_data(todo.data)
        target = from_options(todo.target, "the request")
        student = load_run(todo.run)
        made = export_model(
            student,
            target,
            todo.out,
            todo.size,
            todo.bake,
            todo.source,
            data,
            self.tell,
            todo.quantization,
            todo.calibration,
        )
        return {"folder": str(made.folder)}

    def verify(
        self, artifact: str, run: str, data: str | None, split: str | None, count: int, trust: list[str]
    ) -> dict[str, Any]:
        """Renew the ledger in the artifact's manifest."""
        from edgeseg.parity import verify_with

        for module in trust:
            import_trusted(module)
        images = None if data is None else load_data(data)
        verify_with(Artifact.open(artifact), load_run(run), images, split, count, self.tell)
        return {}

    def bisect(self, artifact: str, run: str, data: str | None, split: str | None, trust: list[str]) -> dict[str, Any]:
        """Where the masks go wrong."""
        from edgeseg.locate import locate_with

        for module in trust:
            import_trusted(module)
        images = None if data is None else load_data(data)
        found = locate_with(Artifact.open(Path(artifact)), load_run(run), images, split, self.tell)
        answer: dict[str, Any] = schema.dump(found)
        return answer


if __name__ == "__main__":
    Exporter().serve()

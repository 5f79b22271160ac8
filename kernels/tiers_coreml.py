"""The tier of Core ML, read back from its file and interpreted: no Mac, so no speed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import need
from edgeseg.kernels.tier import Run, Work, tier
from edgeseg.kernels.tiers_torch import operators

if TYPE_CHECKING:
    from edgeseg.runtimes.mil_interpreter import Program


def in_mil(work: Work, islands: Sequence[str]) -> Program:
    """The operator alone in Core ML's operators, read back from its file; in half precision with float32 inside of `islands`."""
    torch = need("torch")
    from edgeseg.kernels.coreml_ops import half_outside, save_package
    from edgeseg.runtimes.mil_interpreter import read_package

    tensors = {name: torch.from_numpy(array) for name, array in work.feeds().items()}
    function, attributes = operators()[work.name], work.attributes()

    class Alone(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, given: dict[str, Any]) -> Any:
            return function(*({**tensors, **given}[name] for name in tensors), *attributes)

    exported = torch.export.export(Alone().eval(), ({name: tensors[name] for name in work.given()},))
    with tempfile.TemporaryDirectory() as folder:
        precision = half_outside(islands) if work.half else None
        return read_package(save_package(exported, Path(folder) / "operator.mlpackage", precision))


@tier("Core ML graph", converted=True, simulated=True)
def _coreml_graph(work: Work) -> Run:
    from edgeseg.kernels.coreml_ops import ISLANDS

    program = in_mil(work, ISLANDS)
    feeds = dict(zip((entry.name for entry in program.inputs), work.given().values(), strict=True))
    return lambda: program.run(feeds)[program.outputs[0]]

"""ExecuTorch on the CPU: XNNPACK where a program was made for it, ExecuTorch's own kernels and ours elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.runtimes.base import GRAPH, PLUGIN, RUNTIMES, Opening, Runtime, listing, main_precision, sessions
from edgeseg.runtimes.record import Execution


class ExecuTorchGraph:
    """One program and its `forward`. It reads the caller's arrays in place and gives copies of its outputs."""

    def __init__(self, opening: Opening) -> None:
        from edgeseg.kernels.executorch_runtime import load_code

        try:
            code = opening.file.read_bytes()
        except OSError as error:
            raise EdgesegError(f"cannot read {opening.file}: {error.strerror or error}") from error
        self._opening = opening
        self._loaded = load_code(code, opening.threads)
        card = self._loaded.card
        if missing := set(opening.outputs) - set(card.get("outputs", ())):
            raise EdgesegError(f"{opening.file} has no output {', '.join(sorted(missing))}; export again")
        self._inputs = list(card["inputs"])
        self._outputs = [card["outputs"].index(name) for name in opening.outputs]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        torch = need("torch")
        given = [torch.from_numpy(np.require(feeds[name], requirements=["C", "W"])) for name in self._inputs]
        made = self._loaded.run(given)
        return [made[index].numpy() for index in self._outputs]

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """Where its operators run and in which types, as the program has it: nothing is chosen when it is opened."""
        card = self._loaded.card
        types, left = dict(card["arithmetic"]), dict(card["left"])
        settings = {
            "delegate": str(card["delegate"]),
            "parts": str(card["parts"]),
            "arithmetic": listing(types),
            "not_delegated": listing(left),
        }
        if card["delegate"] == "xnnpack" and types.get("fp16"):
            settings["sums"] = "float16, rounded after every term"  # tests/export/test_executorch_target.py proves it
        if self._opening.operators:
            settings["ops"] = PLUGIN if card["plugin"] else GRAPH
        ours = sum(left.get(name, 0) for name in self._opening.operators)
        placed = {str(card["delegate"]): int(card["inside"]), "edgeseg": ours, "portable": sum(left.values()) - ours}
        return Execution(
            runtime="executorch",
            version=version(),
            threads=self._loaded.threads(),
            precision=main_precision(types),
            placed={unit: count for unit, count in placed.items() if count},
            settings=settings,
        )

    def close(self) -> None:
        """Let go of the program."""
        del self._loaded


def version() -> str:
    """The installed ExecuTorch."""
    return str(need("executorch.version").__version__)


RUNTIMES.add("executorch", Runtime("executorch", version, sessions(ExecuTorchGraph)))

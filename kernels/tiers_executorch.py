"""The tiers of ExecuTorch: our kernels, or standard operators of which XNNPACK takes what it can."""

from __future__ import annotations

from typing import Any

from edgeseg.errors import need
from edgeseg.kernels.build import library
from edgeseg.kernels.tier import Run, Work, tier
from edgeseg.kernels.tiers_torch import on_threads, operators


@tier("ExecuTorch plugin", converted=True)
def _executorch_plugin(work: Work) -> Run:
    import edgeseg.kernels.executorch_runtime  # noqa: F401, says what the library is made of

    library("executorch")  # if it cannot be had, say so before the export
    return _in_executorch(work, plugin=True)


@tier("ExecuTorch graph", converted=True)
def _executorch_graph(work: Work) -> Run:
    return _in_executorch(work, plugin=False)


def _in_executorch(work: Work, plugin: bool) -> Run:
    torch = need("torch")
    from edgeseg.kernels.executorch_runtime import load, to_executorch

    function, attributes = operators()[work.name], work.attributes()
    feeds = {name: torch.from_numpy(array) for name, array in work.feeds().items()}
    weights = {name: feeds[name] for name in work.operator.constant}
    given = {name: tensor for name, tensor in feeds.items() if name not in weights}

    class Alone(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The operator as a network, with its weights inside."""

        def __init__(self) -> None:
            super().__init__()
            for name, tensor in weights.items():
                self.register_buffer(name, tensor)

        def forward(self, *inputs: Any) -> Any:
            values = dict(self.named_buffers()) | dict(zip(given, inputs, strict=True))
            return function(*(values[name] for name in feeds), *attributes)

    inputs = tuple(given.values())
    run = load(to_executorch(Alone(), inputs, plugin), work.threads)
    return lambda: on_threads(1, lambda: run(inputs)[0])  # PyTorch only copies the result

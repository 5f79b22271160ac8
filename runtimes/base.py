"""What a runtime is: it opens an artifact, runs it, and says in its own words what it really did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.kernels.label_map.host import label_map_host
from edgeseg.manifest import InputSpec, Manifest, OutputSpec
from edgeseg.registry import Registry
from edgeseg.runtimes import pixels
from edgeseg.runtimes.record import Execution, Operator

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact


class Graph(Protocol):
    """One network file, opened: arrays by name in, arrays in the order of its outputs out."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs; new arrays each time."""

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """How it runs, read back from the runtime; may run the network once more on `feeds`."""

    def close(self) -> None:
        """Let go of the network."""


@runtime_checkable
class Profiled(Protocol):
    """A graph or a session whose runtime says how long each operator takes."""

    def operators(self, given: Any, runs: int) -> list[Operator]:
        """The operators in the order of execution, means of `runs` runs on an input, after a first that does not count."""


class Session(Protocol):
    """One artifact, ready to run; for one thread at a time."""

    input: InputSpec
    output: OutputSpec

    @property
    def execution(self) -> Execution:
        """How it runs, read back from the runtime; may run the model once more, so ask after measuring."""

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        """The output for an input that is exactly as `input` says; a new array each time."""

    def close(self) -> None:
        """Let go of the model."""


@dataclass(frozen=True)
class Remotely:
    """This end of a runtime that `agent.RUNTIMES` has on devices.

    asked:      what the agent has to know to open an artifact, from its manifest and a number of threads.
    heard:      what the agent's words on a run, its version and the number of threads mean.
    provenance: what a measurement there is worth; here another may stand in for the runtime.
    """

    asked: Callable[[Manifest, int], dict[str, Any]]
    heard: Callable[[dict[str, Any], str, int], Execution]
    provenance: Literal["measured", "simulated"] = "measured"


@dataclass(frozen=True)
class Runtime:
    """A way to execute artifacts of the target of the same name.

    version:    what is installed; raises MissingTool with the install line when nothing is.
    open:       an artifact and a number of threads to a session.
    open_run:   likewise a run and an input size (height, width), for a runtime that needs no export.
    remotely:   how it is used on a device, where the agent knows it.
    provenance: what a measurement in it is worth on this machine.
    others:     an artifact as it may run besides, by name; each is proven too.
    """

    name: str
    version: Callable[[], str]
    open: Callable[[Artifact, int], Session]
    open_run: Callable[[Path, int, tuple[int, int]], Session] | None = None
    remotely: Remotely | None = None
    provenance: Literal["measured", "simulated"] = "measured"
    others: Callable[[Artifact], dict[str, Artifact]] = lambda artifact: {}

    @property
    def fresh(self) -> tuple[OpenGraph, str | None] | None:
        """As `Sessions.fresh`; null for a runtime that does not open single files."""
        return self.open.fresh if isinstance(self.open, Sessions) else None


RUNTIMES: Registry[Runtime] = Registry("runtime")
"""Name -> runtime; each file of this folder that is one adds itself."""

HEAVY = frozenset({"conv", "convolution", "convtranspose", "deconvolution", "gemm", "matmul", "fullyconnected"})
"""Operators, whatever a runtime calls them, that carry the arithmetic and so decide the precision executed."""


def runtime_of(artifact: Artifact) -> Runtime:
    """The runtime that executes this artifact's target."""
    return RUNTIMES[str(artifact.manifest.target.get("name"))]


def open_artifact(artifact: Artifact, threads: int) -> Session:
    """A session in the artifact's own runtime."""
    if threads < 1:
        raise EdgesegError(f"threads must be at least 1, got {threads}")
    return runtime_of(artifact).open(artifact, threads)


Ops = Literal["auto", "plugin", "graph"]
"""How operators of ours are asked to run: as our kernel, as standard operators, or as what can be had."""

PLUGIN, GRAPH, HOST = "plugin", "graph", "host"
"""Tiers as a manifest names them; `host`: not in the file, whoever runs it does it."""

ABSENT = -2
"""As in `edgeseg.students.promptable`, without PyTorch."""


@dataclass(frozen=True)
class Opening:
    """A network file to open: the names of its outputs, the precision asked for, and how its operators of ours are to run."""

    file: Path
    outputs: Sequence[str]
    precision: str
    threads: int
    operators: Sequence[str] = ()
    ops: Ops = "auto"

    def plugin(self, library: str) -> Path | None:
        """The library with our kernels, built if need be; None where it is not wanted or, with `auto`, not to be had.

        Raises:
            EdgesegError: `plugin` was asked for and there is no compiler, or it failed.
        """
        from edgeseg.kernels import build

        if not self.operators or self.ops == "graph":
            return None
        try:
            return build.library(library)
        except EdgesegError:
            if self.ops == "plugin":
                raise
            return None

    def tiers(self, plugin: Path | None) -> dict[str, str]:
        """For an `Execution`'s settings: how the operators run, where there are any."""
        return {"ops": GRAPH if plugin is None else PLUGIN} if self.operators else {}


OpenGraph: TypeAlias = Callable[[Opening], Graph]


@dataclass(frozen=True)
class Sessions:
    """What opens artifacts in a runtime that knows how to open one file."""

    open_graph: OpenGraph

    @property
    def fresh(self) -> tuple[OpenGraph, str | None]:
        """What opens a file that was only just written, and the name of the runtime where another one stands in."""
        return self.open_graph, None

    def __call__(self, artifact: Artifact, threads: int) -> Session:
        """An artifact and a number of threads to a session."""
        manifest = artifact.manifest

        def graph(file: Path, outputs: Sequence[str]) -> Graph:
            ops = manifest.target.get("ops", "auto")
            used = tuple(name for name, tier in manifest.op_tiers.items() if tier != HOST)
            return self.open_graph(Opening(file, outputs, manifest.precision.asked, threads, used, ops))

        if manifest.decoder is None:
            opened = graph(artifact.model_file, [manifest.output.name])
            return ImageSession(opened, manifest.input, manifest.output, threads)
        encoder = graph(artifact.model_file, manifest.decoder.maps)
        return PromptSession(encoder, graph(artifact.decoder_file, manifest.decoder.outputs), manifest)


def sessions(open_graph: OpenGraph) -> Sessions:
    """What opens artifacts, from what opens one file."""
    return Sessions(open_graph)


class ImageSession:
    """A network that takes an image and labels it."""

    def __init__(self, graph: Graph, given: InputSpec, made: OutputSpec, threads: int = 1) -> None:
        self.input, self.output, self._threads = given, made, threads
        self._graph, self._shape, self._dtype = graph, tuple(given.shape), np.dtype(given.dtype)

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        """The output for one input."""
        if image.dtype != self._dtype or not (image.shape == self._shape or pixels.taken(image.shape, self.input)):
            raise wrong_input(image, self.input)
        made = self._graph.run({self.input.name: image})[0]
        if made.ndim == 4 and self.output.kind == "labels":  # the file leaves that to us
            height, width = self.output.shape[1:]
            return label_map_host(made, (height, width), self._threads)
        return made.transpose(0, 3, 1, 2) if self.output.layout == "NHWC" else made

    @property
    def execution(self) -> Execution:
        """Read back from the runtime."""
        return self._graph.execution({self.input.name: np.ones(self._shape, self._dtype)})

    def operators(self, given: Any, runs: int) -> list[Operator]:
        """As the runtime tells them."""
        return profiled(self._graph).operators({self.input.name: given}, runs)

    def close(self) -> None:
        """Let go of the model."""
        self._graph.close()


class PromptSession:
    """An encoder that looks at an image once, and a decoder that answers any number of prompts about it."""

    def __init__(self, encoder: Graph, decoder: Graph, manifest: Manifest) -> None:
        assert manifest.decoder is not None
        self.input, self.output = manifest.input, manifest.output
        self._encoder, self._decoder, self._maps = encoder, decoder, manifest.decoder.maps
        self._places = manifest.decoder.places
        self._at_once = manifest.decoder.prompts if self._places is None else 1
        self._shape, self._dtype = tuple(self.input.shape), np.dtype(self.input.dtype)
        self._points, self._labels = usual_prompt(self.input)

    def encode(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        """The maps of one input."""
        if image.shape != self._shape or image.dtype != self._dtype:
            raise wrong_input(image, self.input)
        return self._encoder.run({self.input.name: image})

    def decode(
        self, maps: Sequence[NDArray[Any]], points: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Masks and their quality for `points [P, N, 2]` with `labels [P, N]`, corners of boxes included.

        Masks are logits `[P, masks, H, W]`, or uint8 `[P, H, W]` where labels are baked in; quality is `[P, masks]`. More
        prompts than the decoder answers at once are asked one part after the other.
        """
        count = len(labels)
        step = self._at_once or count
        if count <= step and self._places is None:
            masks, quality = self._decoder.run(self._feeds(maps, points, labels))
            return masks, quality
        spots, signs = (points, labels) if self._places is None else padded(points, labels, self._places)
        parts = (slice(start, start + step) for start in range(0, count, step))
        made = [self._decoder.run(self._feeds(maps, spots[part], signs[part])) for part in parts]
        masks, quality = (np.concatenate(each) for each in zip(*made, strict=True))
        if masks.ndim == 4 and self.output.shape[1:] == list(masks.shape[2:]):  # the file leaves that to us
            best = masks[np.arange(count), quality.argmax(1)] > 0
            return best.astype(np.uint8), quality
        return masks, quality

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        """The best mask for a click in the middle: logits `[1, 1, H, W]`, or uint8 `[1, H, W]`."""
        return self.answer(self.encode(image))

    def answer(self, maps: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """That of an image whose maps are there."""
        masks, quality = self.decode(maps, self._points, self._labels)
        return masks if masks.ndim == 3 else masks[:, [int(quality[0].argmax())]]

    @property
    def execution(self) -> Execution:
        """The encoder's, with what differs in the decoder named after it."""
        image = np.ones(self._shape, self._dtype)
        first = self._encoder.execution({self.input.name: image})
        return of_both(first, self._decoder.execution(self._feeds(self.encode(image), self._points, self._labels)))

    def operators(self, given: Any, runs: int) -> list[Operator]:
        """The encoder's, then the decoder's on one click; the name of each says whose it is."""
        prompt = self._points, self._labels
        second = self._feeds(self.encode(given), *(padded(*prompt, self._places) if self._places else prompt))
        halves = ("encoder", self._encoder, {self.input.name: given}), ("decoder", self._decoder, second)
        return [
            replace(each, name=f"{half} {each.name}")
            for half, graph, feeds in halves
            for each in profiled(graph).operators(feeds, runs)
        ]

    def close(self) -> None:
        """Let go of both."""
        self._encoder.close()
        self._decoder.close()

    def _feeds(
        self, maps: Sequence[NDArray[Any]], points: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> dict[str, NDArray[Any]]:
        return {**dict(zip(self._maps, maps, strict=True)), "points": points, "labels": labels}


def usual_prompt(spec: InputSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is measured: a click in the middle and one empty place, which is how a prompt without a box ends."""
    height, width = pixels.size(spec)
    return np.array([[[width / 2, height / 2], [0, 0]]], np.float32), np.array([[1, -1]], np.float32)


def padded(
    points: NDArray[np.float32], labels: NDArray[np.float32], places: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prompts `[P, N, 2]` and `[P, N]` for a decoder that has so many places; the rest is not there."""
    count, used = labels.shape
    if used > places:
        raise EdgesegError(f"a prompt has {used} points, corners of a box included; this artifact takes {places}")
    spots, signs = np.zeros((count, places, 2), np.float32), np.full((count, places), ABSENT, np.float32)
    spots[:, :used], signs[:, :used] = points, labels
    return spots, signs


def of_both(first: Execution, second: Execution) -> Execution:
    """The encoder's execution, with what differs in the decoder named after it."""
    settings = first.settings | {
        f"decoder_{key}": value for key, value in second.settings.items() if first.settings.get(key) != value
    }
    placed = [Counter(each.placed) for each in (first, second) if each.placed is not None]
    return replace(first, settings=settings, placed=dict(placed[0] + placed[1]) if len(placed) == 2 else None)


def profiled(opened: object) -> Profiled:
    """A graph or a session, if its runtime says how long operators take."""
    if not isinstance(opened, Profiled):
        raise EdgesegError(
            f"the runtime of {type(opened).__name__} does not tell edgeseg how long each operator takes; "
            "onnxruntime, openvino and litert do"
        )
    return opened


def wrong_input(image: NDArray[Any], spec: InputSpec) -> EdgesegError:
    """The error for an input that is not what the artifact takes."""
    more = "" if spec.sizes is None else f", or {spec.sizes} in steps of {spec.step}"
    return EdgesegError(
        f"the input is {spec.dtype} {spec.shape} {spec.layout}{more}, got {image.dtype} {list(image.shape)}"
    )


def main_precision(precisions: dict[str, int]) -> str | None:
    """The precision most of the arithmetic ran in, from the number of operators per precision."""
    return max(precisions, key=lambda name: precisions[name]) if precisions else None


def listing(counts: dict[str, int]) -> str:
    """Counts for people, e.g. `bf16 52, fp32 3`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))

"""ncnn on the CPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.errors import EdgesegError, need
from edgeseg.runtimes.base import HEAVY, RUNTIMES, Opening, Runtime, listing, main_precision, sessions
from edgeseg.runtimes.record import Execution
from edgeseg.schema import STRICT

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
CARD = "edgeseg edgeseg 0 0 card="
"""How the line begins, behind the last layer, where ncnn reads no further and a viewer sees a layer of its own."""

STORED = ("use_fp16_packed", "use_fp16_storage")
"""Options for what layers hand on, which ncnn switches on unless it is told not to, as well as `use_fp16_arithmetic`.

That one stays off. On an emulated Cortex-A76, sums in float16 moved the logits of a fresh DDRNet by 2e-2 of their RMS and of
LR-ASPP by 6e-3, which is all that float16 may cost; with sums in float32 it was 1e-3 and 7e-4 (ncnn 1.0.20261020). Keeping
float16 from single layers, by their option 31, corrupted the memory there.
"""

READ_BACK = (
    *STORED,
    "use_fp16_arithmetic",
    "use_bf16_storage",
    "use_packing_layout",
    "use_sgemm_convolution",
    "use_winograd_convolution",
    "use_vulkan_compute",
    "lightmode",
)
"""Options that explain a latency."""


@dataclass(frozen=True)
class Place:
    """Where in a net an array is: the name of its blob, its shape in PyTorch, and the axis that ncnn keeps apart as the batch."""

    __pydantic_config__ = STRICT
    blob: str
    shape: list[int]
    batch: int | None


@dataclass(frozen=True)
class Card:
    """The last line of a `.param`: its inputs and outputs in order, whether it bears values in float16, and what it is of."""

    __pydantic_config__ = STRICT
    inputs: dict[str, Place]
    outputs: dict[str, Place]
    half: bool
    about: dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A line of a `.param`; `options` are those of its kind, as they stand."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    options: str


def layers(param: str) -> list[Layer]:
    """The layers of a `.param`, which has a magic number, two counts, and then a layer per line."""
    lines = param.splitlines()
    found = []
    for line in lines[2 : 2 + int(lines[1].split()[0])]:
        kind, name, inner, outer, *rest = line.split()
        begin, end = int(inner), int(inner) + int(outer)
        found.append(Layer(kind, name, rest[:begin], rest[begin:end], " ".join(rest[end:])))
    return found


def params_line(card: Card) -> str:
    """A card as one word behind `CARD`: blanks and equals signs would end it."""
    text = json.dumps(schema.dump(card), separators=(",", ":"))
    return CARD + text.replace(" ", "\\u0020").replace("=", "\\u003d")


def card_of(file: Path) -> Card:
    """The card of a `.param`.

    Raises:
        EdgesegError: there is none, because another tool has rewritten the file.
    """
    try:
        last = file.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    except OSError as error:
        raise EdgesegError(f"cannot read {file}: {error.strerror or error}") from error
    if not last.startswith(CARD):
        raise EdgesegError(f"{file} does not end with what edgeseg writes into it; export again")
    return schema.parse(Card, json.loads(last.removeprefix(CARD)), str(file))


class NcnnGraph:
    """One net, in float32 unless its file says that it bears float16, which ncnn by itself takes wherever the processor has it."""

    def __init__(self, opening: Opening) -> None:
        ncnn = need("ncnn")
        self._opening, self._card = opening, card_of(opening.file)
        missing = [name for name in opening.outputs if name not in self._card.outputs]
        if missing:
            raise EdgesegError(f"{opening.file} has no output {missing[0]}; export again")
        self._outputs = [self._card.outputs[name] for name in opening.outputs]
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = opening.threads
        options.use_vulkan_compute = False
        options.use_bf16_storage = options.use_fp16_arithmetic = False
        for name in STORED:
            setattr(options, name, self._card.half)
        weights = opening.file.with_suffix(".bin")
        for load, file in ((self._net.load_param, opening.file), (self._net.load_model, weights)):
            code = load(str(file))
            if code != 0:
                self._net.clear()
                raise EdgesegError(f"ncnn {version()} cannot open {file} (code {code}); export again")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs; uint8 pixels become planes of float32."""
        with self._net.create_extractor() as extractor:
            for name, place in self._card.inputs.items():
                check(name, extractor.input(place.blob, mat(given(feeds[name], place), place.batch)))
            return [self._take(extractor, place) for place in self._outputs]

    def _take(self, extractor: Any, place: Place) -> NDArray[Any]:
        code, made = extractor.extract(place.blob)
        check(place.blob, code)
        # copied once: the extractor takes its memory with it, and `numpy` with an axis copies by itself, slowly
        alone = place.batch is None or place.shape[place.batch] == 1
        array: NDArray[Any] = np.array(made, np.float32) if alone else made.numpy(batch_index=place.batch)
        if array.size != np.prod(place.shape):
            raise EdgesegError(f"ncnn gave {list(array.shape)} for {place.blob}, which is {place.shape}; export again")
        return array.reshape(place.shape)

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """Read back from the net: its options, and for each layer that was made for this processor whether it takes float16."""
        options, made = self._net.opt, self._net.layers()
        types = Counter(
            "fp16" if options.use_fp16_storage and layer.support_fp16_storage else "fp32"
            for layer in made
            if any(heavy in layer.type.lower() for heavy in (*HEAVY, "innerproduct"))
        )
        settings = (
            {name: word(getattr(options, name)) for name in READ_BACK}
            | {"arithmetic": listing(types)}
            | self._opening.tiers(None)
        )
        threads, placed = int(options.num_threads), {"cpu": len(made)}
        return Execution("ncnn", version(), threads, main_precision(types), placed, settings)

    def close(self) -> None:
        """Let go of the net."""
        self._net.clear()
        del self._net


def given(array: NDArray[Any], place: Place) -> NDArray[np.float32]:
    """An input as the net takes it.

    uint8 [1, H, W, 3]   becomes   float32 [1, 3, H, W]
    """
    planes = array.transpose(0, 3, 1, 2) if array.dtype == np.uint8 and array.ndim == 4 else array
    if list(planes.shape) != place.shape:
        raise EdgesegError(f"{place.blob} is {place.shape}, got {list(planes.shape)}; this file takes one size")
    return np.ascontiguousarray(planes, np.float32)


def mat(array: NDArray[np.float32], batch: int | None) -> Any:
    """ncnn's copy of an array: its view of one does not keep the array, and is not aligned as its own memory is."""
    view = need("ncnn").Mat
    if batch is not None and array.shape[batch] == 1:
        array, batch = array.squeeze(batch), None
    return (view(array) if batch is None else view(array, batch_index=batch)).clone()


def check(what: str, code: int) -> None:
    """Raise for a code that says that something went wrong; ncnn has then said more on stderr."""
    if code != 0:
        raise EdgesegError(f"ncnn {version()} failed at {what} with code {code}; is there memory left?")


def word(option: Any) -> str:
    """An option in a word."""
    return {True: "on", False: "off"}.get(option, str(option))


def version() -> str:
    """The installed ncnn."""
    return str(need("ncnn").__version__)


RUNTIMES.add("ncnn", Runtime("ncnn", version, sessions(NcnnGraph)))

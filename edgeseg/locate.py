"""Where an artifact goes wrong: the first module of the student whose output leaves tolerance, and where in the picture.

The network is exported again with the outputs of its modules as further outputs, opened in the same runtime and compared with
what the student makes, from the outside in: first its parts, then the parts of the first that differs. A part that gives no
tensor of its own, such as a backbone that gives a list, is looked through: its own parts take its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.errors import EdgesegError
from edgeseg.export import from_options, networks
from edgeseg.export.deployed import Network
from edgeseg.export.target import Target
from edgeseg.parity import Picture, Progress, both, choose, coarser, default_data, questions
from edgeseg.pictures import save_picture
from edgeseg.quantize.graph import module_of
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes.base import OpenGraph, Opening, runtime_of
from edgeseg.schema import STRICT
from edgeseg.students import Promptable, Student

AT_ONCE = 24
"""Modules that are looked at in one export: more outputs keep a runtime from what it does with the plain network."""

PICTURE = "bisect.png"


@dataclass(frozen=True)
class Stage:
    """A module: how far its output in the file, and in the folded graph, is from the student's, as relative RMS.

    Null where it is not finite. `fits`: both are within tolerance.
    """

    __pydantic_config__ = STRICT
    module: str
    kind: str
    shape: list[int]
    graph: float | None
    file: float | None
    fits: bool


@dataclass(frozen=True)
class Operator:
    """An operator of a Core ML package as it is declared, and the module that it comes from, null where that is not known.

    error: relative RMS of its output, rounded as the file says, from the same file's in float64; null where it is not finite.
    place: the how manyth it is, of `count`.
    """

    __pydantic_config__ = STRICT
    name: str
    kind: str
    module: str | None
    type: str
    error: float | None
    place: int
    count: int


@dataclass(frozen=True)
class Located:
    """The first module that differs, null where none does; the modules that were looked at, in the order they run.

    picture:  the image with the error of that module's output over it, in the artifact's evidence.
    operator: of Core ML the first whose declared types take it out of tolerance, null where none does.
    """

    __pydantic_config__ = STRICT
    first: str | None
    within: float
    stages: list[Stage]
    words: str
    picture: str | None
    operator: Operator | None = None


def locate_with(
    artifact: Artifact,
    student: Student,
    data: Data | None = None,
    split: str | None = None,
    progress: Progress | None = None,
) -> Located:
    """Bisect on the first image of `data`, or on a generated scene."""
    _, pictures = choose(data or load_data(default_data(student)), split, 1, artifact.size)
    return locate(artifact, student, pictures[0], progress)


@torch.no_grad()  # not inference mode: exporters do not take such tensors
def locate(artifact: Artifact, student: Student, one: Picture, progress: Progress | None = None) -> Located:
    """The first module of the student that the artifact's target gets wrong."""
    manifest = artifact.manifest
    if manifest.target.get("name") == "coreml" and manifest.calibration is not None:
        within = PRECISIONS[manifest.precision.asked].relative_rms
        operator = first_operator(artifact, student.eval(), one, within)
        return Located(None, within, [], _of_operator(operator, within), None, operator)
    if manifest.calibration is not None:
        raise EdgesegError(
            f"{artifact.folder} is in whole numbers, which change a little everywhere; `edgeseg quantize --max-drop` says which block "
            "loses most, and --bisect of the float artifact what the runtime gets wrong"
        )
    target = from_options(manifest.target, str(artifact.folder))
    fresh = runtime_of(artifact).fresh
    if fresh is None:
        raise EdgesegError(f"{target.name} opens no networks outside an artifact, so it cannot be bisected")
    opens, stand_in = fresh
    within = PRECISIONS[coarser(manifest.precision.asked, manifest.precision.executed)].relative_rms
    stages: list[Stage] = []
    blind: list[str] = []
    first: Stage | None = None
    heat: NDArray[np.float32] | None = None
    for part, network, feeds in _networks(artifact, student.eval(), target, one):
        seen: dict[str, Stage] = {}
        names = _parts(network, feeds, "")
        if not names:
            blind.append(part)
        while names:
            some = _spread(names)
            if progress:
                progress(len(stages) + len(seen), len(stages) + len(seen) + len(some))
            found, maps = _compare(artifact, target, opens, network, student, feeds, some, within)
            wrong = next((index for index, stage in enumerate(found) if not stage.fits), None)
            seen |= {stage.module: stage for stage in (found if wrong is None else found[: wrong + 1])}
            if wrong is None:
                break
            first, heat = found[wrong], maps[wrong]
            skipped = names[names.index(some[wrong - 1]) + 1 if wrong else 0 : names.index(first.module)]
            # one of those that were left out may be the first; without it, it is something inside
            names = [*skipped, first.module] if skipped else _parts(network, feeds, first.module)
        stages += seen.values()
        if first is not None:
            break
    path = _draw(artifact.folder / "evidence" / PICTURE, one, heat) if heat is not None else None
    words = _words(target.name, stand_in, first, within, blind, compared=bool(stages))
    operator = None
    if target.name == "coreml":
        operator = first_operator(artifact, student, one, within)
        words = f"{words}. {_of_operator(operator, within)}"
    return Located(first.module if first else None, within, stages, words, path, operator)


def first_operator(artifact: Artifact, student: Student, one: Picture, within: float) -> Operator | None:
    """The first operator of a Core ML package that its own types take out of tolerance, executed beside the same in float64."""
    from edgeseg.runtimes import mil_interpreter as mil

    decoder = artifact.manifest.decoder
    files = [artifact.model_file, *([artifact.folder / decoder.file] if decoder else [])]
    target = from_options(artifact.manifest.target, str(artifact.folder))
    for file, (_, network, feeds) in zip(files, _networks(artifact, student, target, one), strict=True):
        found = mil.first_wrong(mil.read_package(file.parent), _arrays(artifact, feeds), within)
        if found is not None:
            name, kind = found.made.name, found.made.kind
            module = _origin(network, feeds, name)
            return Operator(name, found.operator, module, kind, found.error, found.place, found.count)
    return None


def _origin(network: Network, feeds: dict[str, Tensor], name: str) -> str | None:
    """The module that an operator of MIL comes from: coremltools names it after PyTorch's, ours write theirs between."""
    with torch.enable_grad():  # as an export is written
        nodes = torch.export.export(network, tuple(feeds.values())).graph.nodes
    plain = re.sub(r"(_cast|_to_fp\d\d|_fp\d\d)+(_\d+)?$", "", name)
    within = re.sub(r"^edgeseg_[a-z]+(_[a-z]+)*?__(.*)_\d+$", r"\2", plain)
    return next((module_of(node) or None for node in nodes if node.name == within), None)


def _of_operator(found: Operator | None, within: float) -> str:
    """The same about operators, as a sentence."""
    if found is None:
        return (
            f"No operator of the package is taken out of {within:g} by its types: executed in float64 it gives the same"
        )
    size = "is not finite" if found.error is None else f"is off by {found.error:.2e} relative RMS, above {within:g}"
    where = f" of {found.module}" if found.module else ""
    return (
        f"Beside the same package in float64 the first operator to leave tolerance is {found.name} ({found.kind}{where}, number "
        f"{found.place} of {found.count}), whose {found.type} {size}"
    )


def _words(
    name: str, stand_in: str | None, first: Stage | None, within: float, blind: Sequence[str], compared: bool
) -> str:
    """The answer as a sentence: what differs or what fits, and what nothing is known of."""
    ran = name if stand_in is None else f"{name} in {stand_in}"
    unknown = f"nothing of the {' and of the '.join(blind)} was compared: no module of it gives a tensor"
    if first is not None:
        where = "folding the student for export" if first.graph is None or not first.graph <= within else ran
        error = first.graph if where != ran else first.file
        size = "is not finite" if error is None else f"is off by {error:.2e} relative RMS, above {within:g}"
        said = f"{where} first differs in {first.module} ({first.kind}), whose output {size}"
        return f"{said}; {unknown}" if blind else said
    if not compared:
        return unknown
    said = f"every module that was compared of a fresh export to {ran} is within {within:g} of the student"
    if blind:
        return f"{said}; {unknown}"
    other = "" if stand_in is None else f", or it is {name} itself, which {stand_in} stood in for here"
    return (
        f"{said}: if the artifact is not, its file is of other weights or was made otherwise (export again), or what "
        f"follows the modules differs{other}"
    )


def _networks(
    artifact: Artifact, student: Student, target: Target, one: Picture
) -> Iterator[tuple[str, Network, dict[str, Tensor]]]:
    """What the networks of an artifact are called, and their inputs for a picture; a decoder's maps are the student's own."""
    parts = networks(student, artifact.size, artifact.manifest.input.baked, target.interface)
    given = torch.from_numpy(both(one, artifact.manifest.input)[1])
    spec = artifact.manifest.input
    planes = "pre" in spec.baked and target.interface.image == "planes"
    image = given.permute(0, 3, 1, 2).float() if planes else given
    yield "network" if len(parts) == 1 else "encoder", parts[0], {spec.name: image.contiguous()}
    if len(parts) > 1:
        encoder, decoder = parts
        points, labels = questions(one, artifact.size)
        feeds = decoder.feeds()
        maps = dict(zip(encoder.outputs, encoder(image), strict=True))
        places = feeds["labels"].shape[1]
        full = torch.zeros(1, places, 2), torch.full((1, places), feeds["labels"].min().item())
        full[0][:, : points.shape[1]], full[1][:, : points.shape[1]] = (
            torch.from_numpy(points[:1]),
            torch.from_numpy(labels[:1]),
        )
        yield "decoder", decoder, {**maps, "points": full[0], "labels": full[1]}


class Tapped(Network):
    """A network that also gives what some of its modules make.

    own: which of its outputs it still gives: not one that a module makes, since some converters merge what is given twice.
    """

    def __init__(self, inner: Network, names: Sequence[str], own: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.inner, self.names, self.own = inner, list(names), list(own)
        self.bake, self.size, self.student, self.interface = inner.bake, inner.size, inner.student, inner.interface
        self.outputs = [*(inner.outputs[index] for index in own), *(f"tap_{index}" for index in range(len(names)))]
        self.dynamic, self.sizes, self.whole = inner.dynamic, inner.sizes, None
        self.eval()

    def feeds(self) -> dict[str, Tensor]:
        """As the network inside, whose free axes stay free."""
        return self.inner.feeds()

    def forward(self, *feeds: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the network, then those of the modules in the order of their names."""
        made, taps = tapped(self.inner, self.names, *feeds)
        return *(made[index] for index in self.own), *(taps[name] for name in self.names)


def tapped(network: Network, names: Sequence[str], *feeds: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What a network makes, and what the modules of its student with these names do when they are first called."""
    taps: dict[str, Tensor] = {}
    made = _hooked(network, names, feeds, taps.setdefault)
    return (made if isinstance(made, tuple) else (made,)), taps


def _hooked(network: Network, names: Sequence[str], feeds: Sequence[Tensor], note: Callable[[str, Any], Any]) -> Any:
    """What a network makes, while each of these modules notes what it gives, in the order they end."""

    def hook(name: str) -> Any:
        def after(module: nn.Module, given: Any, made: Any) -> None:  # what it returned would take the output's place
            note(name, made)

        return after

    handles = [network.student.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        return network(*feeds)
    finally:
        for handle in handles:
            handle.remove()


def _parts(network: Network, feeds: dict[str, Tensor], inside: str) -> list[str]:
    """The outermost modules below `inside` that give a tensor, in the order they run."""
    below = [
        f"{inside}.{name}" if inside else name
        for name, _ in network.student.get_submodule(inside).named_modules()
        if name
    ]
    outermost: dict[str, Tensor] = {}  # keeps the tensors, or their ids may be others'

    def note(name: str, made: Any) -> None:
        if not isinstance(made, Tensor) or not made.is_floating_point():
            return  # a list, or nothing that can be held against another: what is inside was noted already
        if not any(name == other or name.startswith(f"{other}.") for other in outermost):
            for inner in [other for other in outermost if other.startswith(f"{name}.")]:
                del outermost[inner]
            outermost[name] = made

    _hooked(network, below, list(feeds.values()), note)
    first = {id(made): name for name, made in reversed(outermost.items())}  # others only hand it on
    return [name for name, made in outermost.items() if first[id(made)] == name]


def _spread(names: list[str]) -> list[str]:
    """As many of the modules as are looked at at once, the last one among them."""
    if len(names) <= AT_ONCE:
        return names
    return [names[index] for index in np.linspace(0, len(names) - 1, AT_ONCE).astype(int)]


def _compare(
    artifact: Artifact,
    target: Target,
    opens: OpenGraph,
    network: Network,
    student: Student,
    feeds: dict[str, Tensor],
    names: list[str],
    within: float,
) -> tuple[list[Stage], list[NDArray[np.float32] | None]]:
    """The modules as the student, the folded graph and the file have them; where each of the file's is wrong."""
    means = {name: _unfolded_name(student, name) for name in names}
    _, trained = tapped(_unfolded(network, student), list(means.values()), *feeds.values())
    wanted = {name: trained[meant] for name, meant in means.items()}
    made, graph = tapped(network, names, *feeds.values())
    own = [index for index, one in enumerate(made) if not any(one is each for each in graph.values())]
    tap = Tapped(network, names, own)
    file = dict(zip(names, _run(artifact, target, opens, tap, feeds)[-len(names) :], strict=True))
    stages, maps = [], []
    for name in names:
        reference = wanted[name].float().numpy()
        got = np.asarray(file[name], np.float32).reshape(reference.shape)
        errors = relative(graph[name].float().numpy(), reference), relative(got, reference)
        fits = all(error is not None and error <= within for error in errors)
        kind = type(network.student.get_submodule(name)).__name__
        stages.append(Stage(name, kind, list(reference.shape), *errors, fits))
        maps.append(np.abs(got - reference).mean(1)[0] if reference.ndim == 4 else None)
    return stages, maps


def _unfolded_name(student: Student, name: str) -> str:
    """The module that gives before folding what this one gives after it: a convolution's own norm, where it has one."""
    inside, _, last = name.rpartition(".")
    children = list(student.get_submodule(inside).named_children())
    for (first, module), (second, norm) in pairwise(children):
        if first == last and isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            return f"{inside}.{second}" if inside else second
    return name


def _unfolded(network: Network, student: Student) -> Network:
    """The network around the student as it was trained, which reads a prompt's places as the network's own does."""
    plain, trained = copy(network), copy(student)
    if isinstance(trained, Promptable) and isinstance(network.student, Promptable):
        trained.absences = network.student.absences
    plain._modules = dict(network._modules)
    plain.student = trained
    return plain


def _run(
    artifact: Artifact, target: Target, opens: OpenGraph, network: Network, feeds: dict[str, Tensor]
) -> list[NDArray[Any]]:
    """What the artifact's runtime, or what stands in for it, makes of a network written anew."""
    manifest = artifact.manifest
    with TemporaryDirectory() as folder:
        with torch.enable_grad():  # as an export is written
            written = target.write(network, Path(folder))
        file = Path(folder) / written.files[0]
        ops = manifest.target.get("ops", "auto")
        opening = Opening(file, network.outputs, target.precision, 1, tuple(written.operators), ops)
        graph = opens(opening)
        try:
            return graph.run(_arrays(artifact, feeds))
        finally:
            graph.close()


def _arrays(artifact: Artifact, feeds: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """What a graph is fed: of the image pixels, where the runtime makes planes of them itself."""
    spec, arrays = artifact.manifest.input, {name: tensor.numpy() for name, tensor in feeds.items()}
    if spec.name in arrays and arrays[spec.name].shape != tuple(spec.shape):
        arrays[spec.name] = arrays[spec.name].transpose(0, 2, 3, 1).astype(spec.dtype)
    return arrays


def relative(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float | None:
    """Relative RMS of the difference; null where something is not finite."""
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        return None
    energy = float(np.square(wanted, dtype=np.float64).mean())
    return float(np.sqrt(np.square(got.astype(np.float64) - wanted).mean() / max(energy, 1e-30)))


def _draw(path: Path, one: Picture, heat: NDArray[np.float32]) -> str:
    """The image in grey with the error over it in red; the name of the file."""
    import cv2

    height, width = one.image.shape[:2]
    finite = np.nan_to_num(heat, nan=np.inf, posinf=np.inf)
    top = finite[np.isfinite(finite)].max(initial=0) or 1.0
    shown = cv2.resize(np.minimum(finite / top, 1).astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    grey = np.repeat(one.image.mean(2, keepdims=True), 3, axis=2) * 0.6
    red = np.array([255, 40, 0], np.float32)
    mixed = grey * (1 - shown[..., None]) + red * shown[..., None]
    path.parent.mkdir(exist_ok=True)
    save_picture(path, mixed.astype(np.uint8))
    return f"evidence/{path.name}"

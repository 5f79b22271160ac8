"""From an artifact to the engines of this very GPU, or the lines that make them where TensorRT is and this package is not."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, need
from edgeseg.export.tensorrt_onnx import TensorRt, fitted, profile_of
from edgeseg.files import aside, sha256
from edgeseg.kernels import tensorrt_plugin
from edgeseg.manifest import Fact
from edgeseg.provenance import now
from edgeseg.runtimes.tensorrt_engine import (
    EngineCard,
    Gpu,
    card_file,
    driver,
    engine_file,
    load_plugin,
    logger,
    tensorrt,
)

OLDEST = 10
"""The first TensorRT with IPluginV3, whose plugins ours are."""


@dataclass(frozen=True)
class Options:
    """How engines are built.

    workspace_mb: the most memory that a layer may use meanwhile, in MiB; null: all there is.
    timing_cache: a file of measured layers, read and added to, which makes the next build of the same kind quick.
    """

    workspace_mb: int | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise EdgesegError(f"the workspace is at least 1 MiB, got {self.workspace_mb}")


@dataclass(frozen=True)
class Part:
    """A network of an artifact: its file, and its facts' prefix in the manifest."""

    file: Path
    prefix: str
    artifact: Artifact

    @property
    def ours(self) -> bool:
        """Whether it has nodes of our operators; then the sources of their plugins are beside it."""
        return (self.file.parent / "plugin" / "tensorrt.cu").exists()

    @property
    def precision(self) -> str:
        """As asked for."""
        return self.artifact.manifest.precision.asked

    @property
    def ops(self) -> str:
        """How our operators are to run."""
        return str(self.artifact.manifest.target.get("ops", "auto"))

    @property
    def facts(self) -> dict[str, Fact]:
        """Of the conversion."""
        return self.artifact.manifest.conversion


def parts_of(artifact: Artifact) -> list[Part]:
    """The networks of a TensorRT artifact.

    Raises:
        EdgesegError: it is for another target.
    """
    name = artifact.manifest.target.get("name")
    if name != TensorRt.name:
        raise EdgesegError(
            f"{artifact.folder} is for {name}, which builds no engine; export it with --to {TensorRt.name}"
        )
    parts = [Part(artifact.model_file, "", artifact)]
    return parts if artifact.manifest.decoder is None else [*parts, Part(artifact.decoder_file, "decoder_", artifact)]


def trtexec_lines(artifact: Artifact, options: Options) -> list[str]:
    """What builds the same engines on a device without Python, to be run where the artifact is."""
    lines = []
    for part in parts_of(artifact):
        where = part.file.parent
        words = ["trtexec", f"--onnx={part.file}", f"--saveEngine={engine_file(part.file)}"]
        if artifact.manifest.target.get("line") == "10":
            words.append("--stronglyTyped")  # the only way of 11, which ignores the flag
        if part.precision == "fp32":
            words.append("--noTF32")
        for option, fact in (("minShapes", "min_shapes"), ("optShapes", "opt_shapes"), ("maxShapes", "max_shapes")):
            if (shapes := part.facts.get(f"{part.prefix}{fact}")) is not None:
                words.append(f"--{option}={shapes}")
        if options.workspace_mb is not None:
            words.append(f"--memPoolSize=workspace:{options.workspace_mb}M")
        if options.timing_cache is not None:
            words.append(f"--timingCacheFile={options.timing_cache}")
        if part.ours:
            library = where / "plugin" / "libedgeseg_tensorrt.so"
            flags = [*tensorrt_plugin.FLAGS, "-arch=native", "-o", str(library), str(where / "plugin" / "tensorrt.cu")]
            lines.append(shlex.join(["nvcc", *flags]))
            words.append(f"--dynamicPlugins={library}")
        lines.append(shlex.join([*words, "--profilingVerbosity=detailed", "--skipInference"]))
    return lines


def build_engines(
    artifact: Artifact, options: Options, progress: Callable[[int, int], None] | None = None
) -> list[EngineCard]:
    """Build the engine of every network for the first GPU, each put in place when it is whole; what they are.

    Raises:
        MissingTool: no TensorRT or no GPU.
        EdgesegError: TensorRT refuses the file or fails; with its words.
    """
    parts = parts_of(artifact)
    trt, gpu = tensorrt(), driver().gpu()
    if _version(trt) < (OLDEST,):
        raise EdgesegError(f"TensorRT {trt.__version__} is too old for these files; {OLDEST}.3 or newer (JetPack 6.1)")
    made = []
    for index, part in enumerate(parts, 1):
        made.append(_build(trt, gpu, part, options))
        if progress:
            progress(index, len(parts))
    return made


def _build(trt: Any, gpu: Gpu, part: Part, options: Options) -> EngineCard:
    """One engine, written with its description."""
    begun = time.monotonic()
    plugin = _plugin(part, gpu)
    if plugin is not None:
        load_plugin(trt, plugin)
    log = logger(trt)
    builder = trt.Builder(log)
    network, parser = _parsed(trt, log, builder, part, plugin)
    config = _configured(trt, builder, part, options)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EdgesegError(f"TensorRT {trt.__version__} cannot build {part.file}: {_why(log)}")
    del parser  # its weights are the network's: not before the build
    with aside(engine_file(part.file)) as file:
        file.write_bytes(bytes(plan))
    if options.timing_cache is not None:
        with aside(options.timing_cache) as file:
            file.write_bytes(bytes(config.get_timing_cache().serialize()))
    engine = engine_file(part.file)
    card = EngineCard(
        created=now(),
        tensorrt=str(trt.__version__),
        gpu=gpu,
        seconds=round(time.monotonic() - begun, 1),
        bytes=engine.stat().st_size,
        sha256=sha256(engine),
        onnx_sha256=sha256(part.file),
        plugin=None if plugin is None else str(plugin),
        workspace_mb=options.workspace_mb,
    )
    schema.write(card_file(part.file), card)
    return card


def _plugin(part: Part, gpu: Gpu) -> Path | None:
    """The library with our kernels for this GPU; None where the file has none or, with `auto`, where it cannot be built."""
    if not part.ours:
        return None
    try:
        return tensorrt_plugin.plugin(arches=(gpu.architecture,))
    except EdgesegError:
        if part.ops == "plugin":
            raise
        return None


def _parsed(trt: Any, log: Any, builder: Any, part: Part, plugin: Path | None) -> tuple[Any, Any]:
    """The network that a file describes, strongly typed, and the parser that holds its weights."""
    flags = trt.NetworkDefinitionCreationFlag
    # 11 knows no other kind: there the flag is deprecated and ignored
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if _version(trt) < (11,) else 0)
    parser = trt.OnnxParser(network, log)
    content = part.file.read_bytes()
    if part.ours:
        content = fitted(need("onnx").load_from_string(content), plugin is not None).SerializeToString()
    if not parser.parse(content):
        said = [" ".join(str(parser.get_error(index).desc()).split()) for index in range(parser.num_errors)]
        raise EdgesegError(
            f"TensorRT {trt.__version__} cannot read {part.file}: {said[0] if said else _why(log)}; "
            "export with --ops graph, or for another line"
        )
    return network, parser


def _configured(trt: Any, builder: Any, part: Part, options: Options) -> Any:
    """How to build: memory, what is measured before, shapes; and a description of every layer is kept in the engine."""
    config = builder.create_builder_config()
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if part.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of fraction are not float32
    if options.timing_cache is not None:
        known = options.timing_cache.read_bytes() if options.timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    if shapes := profile_of(part.facts, part.prefix):
        profile = builder.create_optimization_profile()
        for name, (least, likely, most) in shapes.items():
            profile.set_shape(name, least, likely, most)
        config.add_optimization_profile(profile)
    return config


def _version(trt: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in str(trt.__version__).split(".")[:2])


def _why(log: Any) -> str:
    return log.said[-1] if log.said else "it does not say why"

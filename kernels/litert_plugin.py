"""Our kernels in LiteRT files: composites of ours become custom operators, and are given their kernels when a file is opened.

In a file from `litert_composite` each operator of ours is a composite, a name with a body of standard operators, and runs
wherever LiteRT does. `with_customs` puts a custom operator in its place, which runs only where our library is loaded.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.build import LIBRARIES, Library
from edgeseg.kernels.litert_runtime import Custom, Options, litert

LIBRARIES.add("litert", Library("litert", "litert.cc"))

DOMAIN = "edgeseg."
"""What the names of our composites and custom operators begin with."""

ATTRIBUTES = {"wkv": ("causal",), "selective_scan": (), "label_map": ("height", "width", "align_corners")}
"""Operator -> its attributes, in the order in which a custom operator's name has their values: LiteRT gives all nodes of one
name the same options, so `edgeseg.label_map(512,512,0)` and `edgeseg.label_map(64,64,0)` are two."""

ALIGNED = 64
"""Bytes. LiteRT refuses to hand a custom operator a constant that lies otherwise in the file."""


def with_customs(file: bytes) -> bytes:
    """The file with a custom operator for each of our composites.

    main: COMPOSITE "edgeseg.wkv" {causal: 0}, body 1     main: CUSTOM "edgeseg.wkv(0)"
    1:    MUL, EXP, ..., DIV                           -> 1:    empty, so that no other body's number changes

    Raises:
        EdgesegError: the bytes are no LiteRT file.
    """
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    codes: dict[str, int] = {}
    for graph in model.subgraphs:
        for node in graph.operators:
            options = node.builtinOptions2
            if not is_ours(options):
                continue
            name = _custom_name(options)
            if name not in codes:
                codes[name] = len(model.operatorCodes)
                model.operatorCodes.append(_code(schema, name))
            node.opcodeIndex = codes[name]
            node.builtinOptions2, node.builtinOptions2Type = None, 0
            body = model.subgraphs[options.decompositionSubgraphIndex]
            body.inputs, body.outputs, body.operators, body.tensors = [], [], [], []
    drop_unused(model)
    return written(schema, model)


def customs(file: bytes, library: Path, threads: int) -> list[Custom]:
    """Our kernels for the custom operators of a file, each running on so many threads.

    Raises:
        EdgesegError: the file is of a newer edgeseg that has more operators.
    """
    litert()  # the library's own symbols are looked for in it
    kernels, found = ctypes.CDLL(str(library)), []
    for code in read(file).operatorCodes:
        name = (code.customCode or b"").decode()
        if not name.startswith(DOMAIN):
            continue
        operator, _, values = name.removeprefix(DOMAIN).rstrip(")").partition("(")
        attributes = [int(value) for value in values.split(",") if value]
        if len(attributes) != len(ATTRIBUTES.get(operator, "none")):
            raise EdgesegError(f"the file has an operator {name!r}, there is {', '.join(ATTRIBUTES)}; update edgeseg")
        kernel = ctypes.c_char.in_dll(kernels, f"edgeseg_litert_{operator}")
        found.append(Custom(name, ctypes.addressof(kernel), Options(threads, (ctypes.c_int64 * 3)(*attributes))))
    return found


def read(file: bytes) -> Any:
    """The model in a file, as the objects of LiteRT's schema.

    Raises:
        EdgesegError: the bytes are no LiteRT file.
    """
    schema = need("ai_edge_litert.schema_py_generated")
    try:
        if not schema.Model.ModelBufferHasIdentifier(file, 0):
            raise ValueError("it does not begin like one")
        return schema.ModelT.InitFromPackedBuf(file, 0)
    except Exception as error:  # whatever a damaged offset leads to
        raise EdgesegError(f"no LiteRT file, or a damaged one: {error}; export again") from error


def is_ours(options: Any) -> bool:
    """Whether these are the options of a composite of ours."""
    name = getattr(options, "name", None)
    return isinstance(name, bytes) and name.decode().startswith(DOMAIN)


def _custom_name(options: Any) -> str:
    name = options.name.decode()
    given = need("flatbuffers.flexbuffers").Loads(bytes(options.compositeAttributes))
    values = [str(int(given[each])) for each in ATTRIBUTES[name.removeprefix(DOMAIN)]]
    return f"{name}({','.join(values)})"


def _code(schema: Any, name: str) -> Any:
    code = schema.OperatorCodeT()
    code.customCode, code.version = name.encode(), 1
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    return code


def drop_unused(model: Any) -> None:
    """Empty the buffers that nobody reads any more."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def written(schema: Any, model: Any) -> bytes:
    """The bytes of a model, its constants where LiteRT takes them without a copy."""

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:
            builder.Prep(ALIGNED, len(self.data))
            return super().Pack(builder)

    for index, buffer in enumerate(model.buffers):
        if buffer.data is not None and len(buffer.data):
            model.buffers[index] = aligned = Aligned()
            aligned.data = buffer.data
    builder = need("flatbuffers").Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())

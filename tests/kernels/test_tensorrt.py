"""The CUDA source, run on the CPU, against the definitions; the plugins of TensorRT as far as they need no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.kernels.build import library
from edgeseg.kernels.label_map import cases as label_map
from edgeseg.kernels.label_map.reference import label_map_reference
from edgeseg.kernels.selective_scan import cases as selective_scan
from edgeseg.kernels.selective_scan.reference import selective_scan_reference
from edgeseg.kernels.tensorrt_plugin import compiler, headers, plugin
from edgeseg.kernels.wkv import cases as wkv
from edgeseg.kernels.wkv.reference import wkv_reference, wkv_sequential

Array = NDArray[Any]

LONGEST = 1024
HALVES = ("key", "value", "u", "delta", "B", "C")  # what may be float16; everything else is float32 always
FENCE = 64


class Fenced:
    """An array full of NaN (or 255) between two fences that nobody may touch."""

    def __init__(self, shape: tuple[int, ...], kind: Any) -> None:
        self.all = np.full(int(np.prod(shape)) + 2 * FENCE, 77, kind)
        self.array = self.all[FENCE:-FENCE].reshape(shape)
        self.array.fill(np.nan if np.issubdtype(kind, np.floating) else 255)

    def intact(self) -> bool:
        return bool((self.all[:FENCE] == 77).all() and (self.all[-FENCE:] == 77).all())


@pytest.fixture(scope="module")
def cuda() -> ctypes.CDLL:
    """The kernels, compiled for the CPU."""
    loaded = ctypes.CDLL(str(library("cuda_host")))
    for name in ("wkv_workspace", "selective_scan_workspace"):
        getattr(loaded, f"edgeseg_cuda_{name}").restype = ctypes.c_long
    return loaded


def call(cuda: ctypes.CDLL, name: str, *given: Array | int) -> int:
    arguments = (ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_long(a) for a in given)
    return getattr(cuda, f"edgeseg_cuda_{name}")(*arguments) or 0


def run(cuda: ctypes.CDLL, name: str, feeds: dict[str, Array], like: str, *last: int) -> Array:
    """What an operator gives, with the type and shape of one of its inputs; `last` are its last arguments, after that shape."""
    first = feeds[like]
    numbers = (*first.shape, *last)
    workspace = Fenced((call(cuda, f"{name}_workspace", *numbers) // 4,), np.float32)
    out = Fenced(first.shape, first.dtype)
    call(cuda, name, int(first.dtype == np.float16), *feeds.values(), out.array, workspace.array, *numbers)
    assert out.intact()
    assert workspace.intact()
    return out.array


def halved(feeds: dict[str, Array]) -> dict[str, Array]:
    return {name: array.astype(np.float16) if name in HALVES else array for name, array in feeds.items()}


def assert_near(got: Array, wanted: Array, within: float) -> None:
    """Relative RMS; NaN fails."""
    assert np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()) <= within


@pytest.mark.parametrize("case", [case for case in wkv.CASES if case.tokens <= LONGEST], ids=str)
def test_wkv_is_the_definition(cuda: ctypes.CDLL, case: wkv.Case) -> None:
    feeds = case.feeds()
    reference = wkv_reference if case.tokens < 200 else wkv_sequential  # the definition takes the square of the tokens
    wanted = reference(**feeds, causal=case.causal)
    assert_near(run(cuda, "wkv", feeds, "key", case.causal), wanted, case.within)
    assert_near(run(cuda, "wkv", halved(feeds), "key", case.causal), wanted, case.half)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("decay", [400.0, -400.0, 10.0, -10.0, 2.6, -2.6, 400 / 100, -400 / 100])
@pytest.mark.parametrize("keys", ["N(0, 1)", "a step up", "a step down", "far apart"])
def test_wkv_of_any_decay_and_any_keys(cuda: ctypes.CDLL, decay: float, keys: str, causal: bool) -> None:
    rng = np.random.default_rng(0)
    tokens, channels = 100, 3
    key = rng.normal(0, 60 if keys == "far apart" else 1, (1, tokens, channels))
    key[:, tokens // 2 :] += {"a step up": 150, "a step down": -150}.get(keys, 0)
    feeds = {
        "decay": np.full(channels, decay),
        "bonus": np.array([0, -80, 70]),
        "key": key,
        "value": rng.normal(0, 1000, key.shape),
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    wanted = wkv_sequential(**feeds, causal=causal)
    assert_near(run(cuda, "wkv", feeds, "key", causal), wanted, within=5e-6)  # a key of 150 has 8e-6 in its last bit


def test_wkv_keeps_nan_in_its_channel(cuda: ctypes.CDLL) -> None:
    feeds = wkv.Case(196, 32).feeds()
    feeds["key"][0, 100, 3] = np.nan
    lost = np.argwhere(np.isnan(run(cuda, "wkv", feeds, "key", False)))
    assert np.unique(lost[:, 2]).tolist() == [3]
    assert len(lost) == 196  # none of its tokens looks well


@pytest.mark.parametrize("case", [case for case in selective_scan.CASES if case.tokens <= LONGEST], ids=str)
def test_selective_scan_is_the_definition(cuda: ctypes.CDLL, case: selective_scan.Case) -> None:
    feeds = case.feeds()
    wanted = selective_scan_reference(**feeds)
    assert_near(run(cuda, "selective_scan", feeds, "u", case.states), wanted, case.within)
    assert_near(run(cuda, "selective_scan", halved(feeds), "u", case.states), wanted, case.half)


@pytest.mark.parametrize("bytes_wide", [1, 4])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", label_map.CASES, ids=str)
def test_label_map_is_the_definition(cuda: ctypes.CDLL, case: label_map.Case, half: bool, bytes_wide: int) -> None:
    logits: NDArray[np.floating] = np.random.default_rng(0).normal(size=(case.batch, case.classes, *case.low))
    logits = logits.astype(np.float16 if half else np.float32)
    wanted, margin = label_map_reference(logits, case.high, case.align_corners)
    labels = Fenced((case.batch, *case.high), np.uint8 if bytes_wide == 1 else np.int32)
    shape = (*logits.shape, *case.high, int(case.align_corners))
    call(cuda, "label_map", int(half), logits, labels.array, int(bytes_wide == 1), *shape)
    assert labels.intact()
    decided = margin > case.margin
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(labels.array[decided], wanted[decided])


def test_the_first_of_equal_classes_wins_and_nan_never(cuda: ctypes.CDLL) -> None:
    logits = np.zeros((1, 4, 2, 2), np.float32)
    logits[:, 0] = np.nan
    labels = np.full((1, 5, 5), 255, np.int32)
    call(cuda, "label_map", 0, logits, labels, 0, *logits.shape, 5, 5, 0)
    assert (labels == 1).all()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match=r"no NvInferRuntime.h in .*libnvinfer-headers-dev"):
        plugin(tensorrt_include=tmp_path)
    (tmp_path / "NvInferRuntime.h").touch()
    with pytest.raises(MissingTool, match=r"no .*bin/nvcc; apt-get install"):
        plugin(tensorrt_include=tmp_path, cuda=tmp_path)


@pytest.fixture(scope="module")
def orin() -> Path:
    """The library of plugins for one GPU, or a skip that says what is missing."""
    try:
        return plugin(arches=(87,))
    except MissingTool as error:
        pytest.skip(str(error))


def test_a_gpu_that_nvcc_does_not_know_is_named(orin: Path) -> None:
    with pytest.raises(EdgesegError, match=r"cannot compile for \[20\].*plugin\(arches=\(87,\)\)"):
        plugin(arches=(20, 87))
    assert plugin(arches=(87,)) == orin


REGISTRY = """
import sys
import numpy as np
import tensorrt_lean_bindings as trt

trt.Logger(trt.Logger.WARNING)
registry = trt.get_plugin_registry()
before = len(registry.all_creators)
assert registry.load_library(sys.argv[1])
print(len(registry.all_creators) - before)
for name in ("LabelMap", "BiWKV", "SelectiveScan"):
    creator = registry.get_creator(name, "1", "edgeseg")
    names = [field.name for field in creator.field_names]
    fields = [trt.PluginField(each, np.array([8], np.int32), trt.PluginFieldType.INT32) for each in names]
    made = creator.create_plugin(name, trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
    core = made.get_capability_interface(trt.PluginCapabilityType.CORE)
    build = made.get_capability_interface(trt.PluginCapabilityType.BUILD)
    print(core.plugin_namespace, core.plugin_name, core.plugin_version, build.num_outputs, *names)
"""


def test_tensorrt_finds_all_three_creators(orin: Path) -> None:
    if importlib.util.find_spec("tensorrt_lean_bindings") is None:
        pytest.skip(
            "tensorrt_lean_bindings is not installed; pip install tensorrt_lean_cu13_bindings tensorrt_lean_cu13_libs"
        )
    done = subprocess.run([sys.executable, "-c", REGISTRY, str(orin)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3",
        "edgeseg LabelMap 1 1 height width align_corners",
        "edgeseg BiWKV 1 1 causal",
        "edgeseg SelectiveScan 1 1",
    ]


# What TensorRT does with a plugin on its way into an engine and out again; Python's bindings cannot ask all of it.
ASK = r"""
#include <NvInferRuntime.h>
#include <dlfcn.h>
#include <cstdio>
#include <cstring>
#include <vector>

using namespace nvinfer1;

struct Log : ILogger {
  void log(Severity, const char* message) noexcept override { std::printf("%s\n", message); }
} logger;
struct Finder : ILoggerFinder {
  ILogger* findLogger() override { return &logger; }
} finder;
const IDimensionExpr* number(int64_t value) { return reinterpret_cast<const IDimensionExpr*>(value); }
struct Numbers : apiv::VExprBuilder {
  const IDimensionExpr* constant(int64_t value) override { return number(value); }
  const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override { return nullptr; }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override { return nullptr; }
} numbers;
struct Builder : IExprBuilder {
  Builder() { mImpl = &numbers; }
} builder;

template <class T>
T* as(IPluginV3* plugin, PluginCapabilityType type) { return static_cast<T*>(plugin->getCapabilityInterface(type)); }

void ask(IPluginCreatorV3One* creator, std::vector<PluginField> given, const std::vector<Dims>& shapes, const std::vector<Dims>& unfit) {
  std::printf("%s:", creator->getPluginName());
  PluginFieldCollection fields{int32_t(given.size()), given.data()};
  IPluginV3* first = creator->createPlugin("", &fields, TensorRTPhase::kBUILD);
  if (!first) return;
  // into the engine and out of it, then into an execution context
  const auto* kept = as<IPluginV3OneRuntime>(first, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize();
  for (int i = 0; i < kept->nbFields; ++i) std::printf(" %s=%d", kept->fields[i].name, *static_cast<const int32_t*>(kept->fields[i].data));
  IPluginV3* read = creator->createPlugin("", kept, TensorRTPhase::kRUNTIME);
  IPluginV3* plugin = as<IPluginV3OneRuntime>(read, PluginCapabilityType::kRUNTIME)->attachToContext(nullptr)->clone();
  auto* build = as<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
  auto* runtime = as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
  const int count = int(shapes.size());

  std::vector<DynamicPluginTensorDesc> tensors(count + 1);
  std::vector<PluginTensorDesc> fit(count), wrong(count);
  std::vector<DimsExprs> inputs(count);
  for (int i = 0; i < count; ++i) {
    tensors[i].max = tensors[i].desc.dims = fit[i].dims = shapes[i], wrong[i].dims = unfit[i];
    inputs[i].nbDims = shapes[i].nbDims;
    for (int axis = 0; axis < shapes[i].nbDims; ++axis) inputs[i].d[axis] = number(shapes[i].d[axis]);
  }
  DimsExprs output;
  build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder);
  std::printf(" -> [");
  for (int axis = 0; axis < output.nbDims; ++axis) std::printf(axis ? ", %ld" : "%ld", long(reinterpret_cast<int64_t>(output.d[axis])));
  std::printf("], workspace %zu\n", build->getWorkspaceSize(tensors.data(), count, nullptr, 1));

  const DataType all[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT32, DataType::kINT8, DataType::kUINT8};
  for (const DataType data : {DataType::kFLOAT, DataType::kHALF}) {
    std::printf(data == DataType::kFLOAT ? "float32:" : "float16:");
    std::vector<DataType> types;
    for (int at = 0; at <= count; ++at) {
      std::printf(" ");
      DataType chosen = DataType::kFLOAT;
      for (const DataType type : all) {
        tensors[at].desc.type = type, tensors[at].desc.format = TensorFormat::kHWC8;
        bool fits = build->supportsFormatCombination(at, tensors.data(), count, 1);
        tensors[at].desc.format = TensorFormat::kLINEAR;
        if (!build->supportsFormatCombination(at, tensors.data(), count, 1)) continue;
        std::printf("%d%s", int(type), fits ? "!" : "");
        if (type == data) chosen = type;
      }
      tensors[at].desc.type = chosen, types.push_back(chosen);
    }
    DataType given_out;
    build->getOutputDataTypes(&given_out, 1, types.data(), count);
    std::printf(" gives %d\n", int(given_out));
  }
  std::printf("%d\n", runtime->onShapeChange(fit.data(), count, nullptr, 1));
  std::printf("%d\n", runtime->onShapeChange(wrong.data(), count, nullptr, 1));
  for (IPluginV3* each : {first, read, plugin}) delete each;
}

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) return std::puts(dlerror()), 1;
  reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"))(&finder);
  int32_t count;
  const auto* creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"))(count);
  const auto at = [&](int i) { return static_cast<IPluginCreatorV3One*>(creators[i]); };
  const int32_t height = 360;
  const int64_t width = 480, one = 1;
  const float half = 0.5f;
  const PluginField H("height", &height, PluginFieldType::kINT32, 1), W("width", &width, PluginFieldType::kINT64, 1);
  const Dims logits{4, {2, 19, 45, 60}}, c{1, {384}}, tokens{3, {2, 1000, 384}}, A{2, {384, 16}}, B{3, {2, 1000, 16}};
  ask(at(0), {W, H}, {logits}, {Dims{4, {2, 257, 45, 60}}});
  ask(at(0), {H}, {logits}, {logits});
  ask(at(0), {H, PluginField("width", &half, PluginFieldType::kFLOAT32, 1)}, {logits}, {logits});
  ask(at(1), {}, {c, c, tokens, tokens}, {c, A, tokens, tokens});
  ask(at(1), {PluginField("causal", &one, PluginFieldType::kINT64, 1)}, {c, c, tokens, tokens}, {c, c, tokens, B});
  ask(at(2), {}, {tokens, tokens, A, B, B, c}, {tokens, tokens, A, B, tokens, c});
}
"""

CHUNKS = 2 * 63 * 384 * 4, 2 * 32 * 384 * 4  # bytes of one number per chunk and channel: 1000 tokens by 16, and by 32
ANSWERS = f"""
LabelMap: height=360 width=480 align_corners=0 -> [2, 360, 480], workspace 0
float32: 01 3 gives 3
float16: 01 3 gives 3
0
edgeseg: LabelMap tells 1 to 256 classes apart, got 257
1
LabelMap:edgeseg: LabelMap needs the attribute width
LabelMap:edgeseg: LabelMap: the attribute width is not one whole number
BiWKV: causal=0 -> [2, 1000, 384], workspace {6 * CHUNKS[0]}
float32: 0 0 01 0 0 gives 0
float16: 0 0 01 1 1 gives 1
0
edgeseg: BiWKV takes decay [C], bonus [C], key [B, T, C] and value [B, T, C]
1
BiWKV: causal=1 -> [2, 1000, 384], workspace {3 * CHUNKS[0]}
float32: 0 0 01 0 0 gives 0
float16: 0 0 01 1 1 gives 1
0
edgeseg: BiWKV takes decay [C], bonus [C], key [B, T, C] and value [B, T, C]
1
SelectiveScan: -> [2, 1000, 384], workspace {17 * CHUNKS[1]}
float32: 01 0 0 0 0 0 0 gives 0
float16: 01 1 0 1 1 0 1 gives 1
0
edgeseg: SelectiveScan takes u and delta [B, T, D], A [D, N], B and C [B, T, N], D [D]
1
"""  # types by TensorRT's numbers: 0 float32, 1 float16, 3 int32


def test_what_a_plugin_answers_to_tensorrt(orin: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.cpp").write_text(ASK, encoding="utf-8")
    command = [str(compiler()), "-std=c++17", "-isystem", str(headers()), "-o", "ask", "ask.cpp", "-ldl"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "ask"), str(orin)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ANSWERS.strip().splitlines()

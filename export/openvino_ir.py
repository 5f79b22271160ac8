"""OpenVINO's intermediate representation: `model.xml` and `model.bin`."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeseg.errors import EdgesegError, need
from edgeseg.export.deployed import Network
from edgeseg.export.onnx_file import to_onnx
from edgeseg.export.operators import Forms, give_bodies, inlined, used
from edgeseg.export.target import Target, Written, register
from edgeseg.runtimes.openvino_model import SITES, core, openvino

OPSET = 20
FORMS = Forms(wkv="chunk", label_map="in_bands")
"""What OpenVINO does fastest on a processor: its cumulative sum is slow, and so is enlarging in both directions at once."""


@register()
@dataclass(frozen=True)
class OpenVino(Target):
    """An OpenVINO model. `fp16` stores weights as float16 and lets the device compute in what it has for that."""

    name: ClassVar[str] = "openvino"
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxslim", "openvino")
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxslim", "openvino")

    def write(self, network: Network, folder: Path) -> Written:
        """`model.xml` and `model.bin`, by way of ONNX: standard operators only, and a note where ours could take their place."""
        ov = openvino()
        onnx_model = to_onnx(network, OPSET)
        sites = give_bodies(onnx_model, FORMS, OPSET)
        need("onnx").checker.check_model(onnx_model, full_check=True)
        model = core().read_model(inlined(onnx_model).SerializeToString())
        if sites:
            model.set_rt_info(json.dumps([dataclasses.asdict(site) for site in sites]), SITES)
        for entry in onnx_model.metadata_props:
            for key, value in json.loads(entry.value).items():
                model.set_rt_info(value if isinstance(value, str) else json.dumps(value), [entry.key, key])
        for index, operator in enumerate(model.get_ordered_ops()):
            if re.fullmatch(r"[A-Z]\w*_\d+", operator.get_friendly_name()):  # numbered through the life of the process
                operator.set_friendly_name(f"{operator.get_type_name()}_{index}")
        try:
            ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=self.precision == "fp16")
        except RuntimeError as error:  # it does not pass on what the system said
            raise EdgesegError(f"OpenVINO cannot write to {folder} ({error}); is the disk full?") from error
        return Written(["model.xml", "model.bin"], used(sites))

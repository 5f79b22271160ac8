"""OpenVINO's intermediate representation: `model.xml` and `model.bin`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import Network
from edgeseg.export.onnx_file import to_onnx
from edgeseg.export.target import Target, register
from edgeseg.runtimes.openvino_model import core, openvino


@register()
@dataclass(frozen=True)
class OpenVino(Target):
    """An OpenVINO model. `fp16` stores weights as float16 and lets the device compute in what it has for that."""

    name: ClassVar[str] = "openvino"
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxslim", "openvino")

    def write(self, network: Network, folder: Path) -> list[str]:
        """`model.xml` and `model.bin`, by way of ONNX."""
        ov = openvino()
        onnx_model = to_onnx(network, opset=20)
        model = core().read_model(onnx_model.SerializeToString())
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
        return ["model.xml", "model.bin"]

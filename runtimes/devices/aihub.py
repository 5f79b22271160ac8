"""Phones and boards in Qualcomm's AI Hub: a job there runs a file on a device of that name, draws an image and times it.

The file and the image go to Qualcomm's servers, with the account that `qai-hub configure` has stored. What comes back is every
duration in whole µs, the unit of each operator, and the output, so masks are compared as those of any other device.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import unquote

from edgeseg.errors import EdgesegError, MissingTool, need
from edgeseg.runtimes import pixels
from edgeseg.runtimes.devices.base import DEVICES, Facts
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.jobs import Jobs, Ran, seen, wrong
from edgeseg.runtimes.record import Operator

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.tools.tool import ToolResult

T = TypeVar("T")

TAKES = ("litert", "onnxruntime")
"""Runtimes whose files a job takes as they are."""

UNITS = ("all", "npu", "gpu", "cpu")
"""What a job may use, in AI Hub's words."""


class AiHub(Jobs):
    """`aihub://Samsung Galaxy S25`, or `aihub://Samsung Galaxy S25?unit=npu`."""

    kind: ClassVar[str] = "aihub"
    place = "in AI Hub"

    def __init__(self, address: str, entry: Entry, name: str, unit: str) -> None:
        self.address, self.url, self._name, self._unit = address, entry.url, name, unit

    def probe(self) -> Facts:
        """What AI Hub says of the newest system that it has on such a device."""
        found = _asked(lambda hub: hub.get_devices(name=self._name))
        if not found:
            raise MissingTool(f"AI Hub has no device {self._name!r}; qai-hub list-devices lists them")
        device = found[-1]
        attributes = device.attributes if isinstance(device.attributes, list) else [device.attributes]
        chips = [each.partition(":")[2] for each in attributes if each.startswith("chipset:")]
        kinds = [each.partition(":")[2] for each in attributes if each.startswith("os:")]
        return seen(
            self._name, self._name, chips[0] if chips else None, f"{kinds[0] if kinds else 'system'} {device.os}"
        )

    def run(self, artifact: Artifact) -> Ran:
        """Have a job run an artifact: minutes, most of them in AI Hub's queue.

        Raises:
            EdgesegError: it takes no such file, or the job failed. MissingTool: there is no client, no account, no such device.
        """
        manifest = artifact.manifest
        if manifest.target["name"] not in TAKES or manifest.decoder is not None:
            what = "two networks" if manifest.decoder else str(manifest.target["name"])
            raise EdgesegError(f"AI Hub runs a file of {' or '.join(TAKES)}, {artifact.folder} has {what}")
        given = pixels.prepare(pixels.pattern(*artifact.size), manifest.input)
        job = _asked(
            lambda hub: hub.submit_inference_job(
                str(artifact.model_file.resolve()),
                hub.Device(self._name),
                {manifest.input.name: [given]},
                f"edgeseg {manifest.student.name} {manifest.sha256[:12]}",
                f"--compute_unit {self._unit}",
                profile=True,
            )
        )
        status = _asked(lambda hub: job.wait())
        if not status.success:
            raise EdgesegError(f"AI Hub's job failed on {self._name}: {status.message or status.code} ({job.url})")
        made = _asked(lambda hub: job.download_output_data()) or {}
        outputs = {name: values[0] for name, values in made.items() if len(values)}
        result = read(_asked(lambda hub: job.download_profile()), need("qai_hub").__version__)
        notes = [f"AI Hub's job: {job.url}", "AI Hub chooses threads and clocks, and says nothing of temperatures"]
        return Ran(result, wrong(artifact, given, outputs), notes)


def read(profile: Mapping[str, Any], version: str | None) -> ToolResult:
    """The figures in a profile, as qai-hub 0.56 hands it out.

    Raises:
        EdgesegError: it has no durations.
    """
    from edgeseg.runtimes.tools.tool import ToolResult, figures

    summary, layers = profile.get("execution_summary", {}), profile.get("execution_detail", [])
    times = [round(1000 * value) for value in summary.get("all_inference_times") or [] if value > 0]
    if not times:
        raise EdgesegError(f"AI Hub's profile has no durations; edgeseg reads those of qai-hub 0.56, this is {version}")
    peak, load = summary.get("inference_memory_peak_range"), summary.get("warm_load_time")
    return ToolResult(
        tool="aihub",
        version=version,
        samples_ns=times,
        figures=figures(times),
        source="samples",
        covers="one inference on the device, without what is copied there and back",
        load_ms=load / 1000 if load else None,
        first_ms=None,
        threads=None,
        precision=None,
        placed=dict(Counter(str(layer["compute_unit"]) for layer in layers)) or None,
        peak_memory_bytes=int(peak[1]) if peak else None,
        operators=[
            Operator(layer["name"], layer["type"], layer["compute_unit"], None, layer["execution_time"] / 1000, 1, None)
            for layer in layers
            if "execution_time" in layer
        ]
        or None,
        warnings=[],
        unread=[],
    )


def _asked(do: Callable[[Any], T]) -> T:
    """What AI Hub's client answers; its own errors are ours, in one line."""
    hub = need("qai_hub")
    try:
        return do(hub)
    except hub.Error as error:
        words = " ".join(re.sub(r"[┌─┐│└┘|]", " ", str(error)).split())
        kind = MissingTool if "configuration file" in words else EdgesegError
        raise kind(f"AI Hub: {words:.300}") from None
    except OSError as error:  # requests' errors are such
        raise MissingTool(f"AI Hub cannot be reached: {error!s:.200}") from None


def aihub(address: str, entry: Entry) -> AiHub:
    """A device in AI Hub. Nothing is asked yet.

    Raises:
        EdgesegError: the address is none.
    """
    name, _, choice = unquote(entry.url.partition("://")[2]).partition("?")
    unit = choice.removeprefix("unit=") if choice else "all"
    if not re.fullmatch(r"\w[\w .()+-]*", name) or unit not in UNITS:
        raise EdgesegError(
            f"{entry.url!r} is no device of AI Hub; write 'aihub://Samsung Galaxy S25', and ?unit={'|'.join(UNITS)} behind it"
        )
    return AiHub(address, entry, name, unit)


DEVICES.add("aihub", aihub)

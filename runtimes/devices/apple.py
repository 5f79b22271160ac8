"""iPhones and iPads on a Mac's cable: coremltools builds a runner app there, signs it with your team, and sends it the package.

Every prediction is a request of its own through `devicectl`, with files that go there and back, half a second and more apart: the
time of each is taken on the device by the app, but between two of them the device rests, as it does not behind a camera.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, MissingTool, need
from edgeseg.runtimes import agent, pixels
from edgeseg.runtimes.coreml_model import ComputeUnits, on_devices, version
from edgeseg.runtimes.devices.base import DEVICES, Facts
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.jobs import Jobs, Ran, seen, wrong

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.tools.tool import ToolResult

T = TypeVar("T")

COUNT, WARMUP = 64, 3
"""Predictions that are timed, and before them."""

EXPERIMENTAL = "coremltools.models.ml_program.experimental"
OPTIONS = ("team", "profile", "bundle", "units")


class Apple(Jobs):
    """`apple://UDID?team=TEAM`: a device by its UDID, signed for by an Apple Developer team (or `profile=UUID&bundle=ID`)."""

    kind: ClassVar[str] = "apple"
    place = "on a Mac's cable"

    def __init__(self, address: str, entry: Entry, udid: str, options: Mapping[str, str]) -> None:
        self.address, self.url, self._udid, self._options = address, entry.url, udid, options

    def probe(self) -> Facts:
        """What `devicectl` says of it."""
        device = self._device()
        return seen(device.name, str(device.type.value), None, f"{device.os_version} ({device.os_build_number})")

    def run(self, artifact: Artifact) -> Ran:
        """Build the app, send the package, predict: minutes the first time.

        Raises:
            EdgesegError: it takes no such artifact, or the app failed. MissingTool: there is no Mac, no Xcode, no such device.
        """
        manifest = artifact.manifest
        if manifest.target["name"] != "coreml" or manifest.decoder is not None:
            what = "two networks" if manifest.decoder else str(manifest.target["name"])
            raise EdgesegError(f"an Apple device runs a package of coreml, {artifact.folder} has {what}")
        if "pre" in manifest.input.baked:
            raise EdgesegError(
                f"{artifact.folder} takes an image, and coremltools sends arrays alone to a device; "
                "export it without pre for this: --bake labels"
            )
        given = pixels.prepare(pixels.pattern(*artifact.size), manifest.input)
        units = self._options.get("units") or str(manifest.target.get("compute_units", "all"))
        ran = _awaited(self._predicted(artifact.model_file.parent, {manifest.input.name: given}, units))
        notes = [
            f"Core ML was given {units}; the device rested between predictions, which a camera would not let it",
            "temperatures and clocks are not known",
        ]
        return Ran(ran[0], wrong(artifact, given, ran[1]), notes)

    def _device(self) -> Any:
        """The device, connected."""
        found = _asked(_tools("remote_device").Device.get_devices)
        device = next((each for each in found if self._udid in (each.udid, each.identifier)), None)
        if device is None:
            names = ", ".join(f"{each.udid} ({each.name})" for each in found) or "none"
            raise MissingTool(f"devicectl knows no device {self._udid}; connected once: {names}")
        if device.state.value != "connected":
            raise MissingTool(
                f"{device.name} is {device.state.value}; plug it in, unlock it and switch Developer Mode on"
            )
        return device

    async def _predicted(
        self, package: Path, feeds: Mapping[str, NDArray[Any]], units: str
    ) -> tuple[ToolResult, dict[str, NDArray[Any]]]:
        """The figures of a package on the device, and what it drew last."""
        remote, wrapper = _tools("remote_device"), _tools("async_wrapper").MLModelAsyncWrapper
        signed = remote.AppSigningCredentials(
            self._options.get("team", ""), self._options.get("profile"), self._options.get("bundle")
        )
        with TemporaryDirectory(prefix="edgeseg-runner-") as folder:
            device = await self._device().prepare_for_model_debugging(signed, Path(folder))
            try:
                model = wrapper.from_spec_or_path(
                    str(package),
                    str(package / "Data" / "com.apple.CoreML" / "weights"),
                    need("coremltools").ComputeUnit[units.upper()],
                    device=device,
                )
                await model.load()
                times: list[int] = []
                for _ in range(WARMUP + COUNT):
                    drawn = await model.predict(dict(feeds))
                    times.append(model.last_predict_duration_in_nano_seconds)
                placed = await _plan(model)
                load_ns = model.load_duration_in_nano_seconds
                await model.unload()
            finally:
                device.session.stop()
        return _result(times, load_ns, placed), {name: np.asarray(value) for name, value in drawn.items()}


async def _plan(model: Any) -> dict[str, int] | None:
    """Operators by the unit that Core ML means to run them on there; null where it does not say."""
    try:
        return on_devices(agent.planned(await model.retrieve_compute_plan()))
    except (RuntimeError, ValueError, KeyError):
        return None


def _result(times: list[int], load_ns: int | None, placed: dict[str, int] | None) -> ToolResult:
    from edgeseg.runtimes.tools.tool import ToolResult, figures

    if any(not isinstance(time, int) or time <= 0 for time in times):
        raise EdgesegError(
            f"the app on the device gave no duration; edgeseg reads those of coremltools 9, this is {version()}"
        )
    kept = times[WARMUP:]
    return ToolResult(
        tool=Apple.kind,
        version=version(),
        samples_ns=kept,
        figures=figures(kept),
        source="samples",
        covers="one prediction, on the device, with what is copied into and out of Core ML",
        load_ms=load_ns / 1e6 if load_ns else None,
        first_ms=times[0] / 1e6,
        threads=None,
        precision=None,
        placed=placed,
        peak_memory_bytes=None,
        operators=None,
        warnings=[],
        unread=[],
    )


def _tools(part: str) -> Any:
    """A module of coremltools' experiments, which is where devices are."""
    from edgeseg.runtimes.mil_interpreter import quiet

    with quiet():
        return need(f"{EXPERIMENTAL}.{part}")


def _awaited(work: Coroutine[Any, Any, T]) -> T:
    return _asked(lambda: asyncio.run(work))


def _asked(do: Any) -> Any:
    """What coremltools gives; its errors, which are of any type, and its bars of progress are kept from the user."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return do()
    except EdgesegError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        if "devicectl" in words and "required" in words:
            here = "this is none" if sys.platform != "darwin" else "xcode-select --install, then open Xcode once"
            raise MissingTool(f"apple:// needs a Mac with Xcode 15 or newer; {here}") from error
        raise EdgesegError(f"coremltools on the device: {type(error).__name__}: {words:.300}") from error


def apple(address: str, entry: Entry) -> Apple:
    """An Apple device. Nothing is asked yet.

    Raises:
        EdgesegError: the address is none.
    """
    udid, _, rest = entry.url.partition("://")[2].partition("?")
    options = dict(parse_qsl(rest, keep_blank_values=True))
    units = options.get("units", "all")
    if (
        not re.fullmatch(r"[0-9A-Fa-f-]{8,40}", udid)
        or not set(options) <= set(OPTIONS)
        or units not in get_args(ComputeUnits)
    ):
        raise EdgesegError(
            f"{entry.url!r} is no Apple device; write 'apple://UDID?team=TEAM', and &units={'|'.join(get_args(ComputeUnits))} behind it"
        )
    return Apple(address, entry, udid, options)


DEVICES.add("apple", apple)

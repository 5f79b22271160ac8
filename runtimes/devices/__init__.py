"""Devices: where a runtime executes. A kind of device is one file here, and its name in the next line."""

from __future__ import annotations

import difflib

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices import adb, aihub, apple, emulated, labgrid, local, ssh  # noqa: F401 (each registers itself)
from edgeseg.runtimes.devices.base import DEVICES, Device, Facts, described
from edgeseg.runtimes.devices.book import Entry, read

__all__ = ["DEVICES", "Device", "Entry", "Facts", "described", "kind_of", "make", "open_device"]


def open_device(address: str) -> Device:
    """A device by its name in the devices file, or by its address: `local`, `ssh://user@host:port`. Nothing is contacted yet.

    Raises:
        MissingTool: there is none of that name, or nothing here reaches that kind.
        EdgesegError: an address that is none.
    """
    return make(address, read().devices.get(address) or Entry(address))


def kind_of(address: str) -> str:
    """The kind of a device, by its name or address."""
    return (read().devices.get(address) or Entry(address)).url.partition("://")[0]


def make(address: str, entry: Entry) -> Device:
    """The device behind an entry, which is known as `address`."""
    kind = entry.url.partition("://")[0]
    if kind in DEVICES:
        return DEVICES[kind](address, entry)
    if entry.url != address:  # an entry to be, whose address is none
        raise EdgesegError(
            f"{entry.url!r} is no address of a device; write ssh://user@host, adb://SERIAL, labgrid://PLACE"
        )
    known = [name if name == "local" else f"{name}://..." for name in DEVICES]
    near = difflib.get_close_matches(address, [*read().devices, *DEVICES], n=3)
    every = f"there are {', '.join([*known, *read().devices])}; edgeseg devices add NAME ADDRESS gives one a name"
    hint = f"did you mean {', '.join(near)}?" if near else every
    raise MissingTool(f"no device {address!r}; {hint}")

"""`edgeseg devices list|probe|add|restore|recover|emulate`."""

from __future__ import annotations

import re
import shlex
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, app, emit, table, talk
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.runtimes.devices import Facts
    from edgeseg.runtimes.record import DeviceState
    from edgeseg.runtimes.telemetry import Reading

devices = typer.Typer(help="Devices to measure on: name them, see what they are.", no_args_is_help=True)
app.add_typer(devices, name="devices")


@devices.command("list")
def names(as_json: Json = False) -> None:
    """The devices that have a name. None of them is contacted.

    Example: edgeseg devices list
    """
    from edgeseg.runtimes.devices import Entry, book

    known = {"local": Entry("local"), **book.read().devices}
    rows = [[name, entry.url, "" if entry.url == "local" else entry.python] for name, entry in known.items()]
    emit(
        {name: asdict(entry) for name, entry in known.items()},
        as_json,
        table("", ["name", "address", "Python there"], rows),
    )


@devices.command("probe")
def probe(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DEVICE]...", help="Names or addresses; all that have a name by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask devices what they are: board, processor, memory, clocks, sensors, and the runtimes that their Python has.

    Example: edgeseg devices probe local
    """
    from edgeseg.runtimes.devices import book

    found, errors = {}, []
    for name in wanted or ["local", *book.read().devices]:
        try:
            with talk.status(f"asking {name}"):
                found[name] = _asked(name)
        except EdgesegError as error:
            errors.append(error)
    document = {
        name: {**asdict(facts), "state": asdict(state), "sensors": asdict(sensors)}
        for name, (facts, state, sensors) in found.items()
    }
    emit(document, as_json, *(table(name, ["", ""], _rows(*said)) for name, said in found.items()))
    if errors:
        raise type(errors[0])("; ".join(map(str, errors)))


@devices.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    url: Annotated[str, typer.Argument(metavar="ssh://USER@HOST[:PORT]|adb://SERIAL")],
    python: Annotated[str, typer.Option(help="The Python there that has numpy and a runtime.")] = "python3",
    folder: Annotated[
        str | None,
        typer.Option(
            help="Where files are kept there; ~/.cache/edgeseg by default, /data/local/tmp/edgeseg on a phone."
        ),
    ] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="Read instead of ~/.ssh/config.")] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="What switches it off and on from here, e.g. 'uhubctl -l 1-1 -p 2 -a cycle'."
        ),
    ] = None,
    probing: Annotated[bool, typer.Option("--probe/--no-probe", help="Keep it only if it answers.")] = True,
    as_json: Json = False,
) -> None:
    """Give a device a name, which `bench -d NAME` takes. A name that is there gets the new address.

    Example: edgeseg devices add pi ssh://pi@raspberrypi.local --python /home/pi/venv/bin/python
    """
    from edgeseg.runtimes.devices import DEVICES, Entry, book, make

    if "://" in name or name in DEVICES:
        raise EdgesegError(f"{name!r} is an address, not a name for one; write edgeseg devices add NAME {url}")
    if not name or name.startswith("-") or re.search(r"\s", name):
        raise EdgesegError(f"{name!r} is no name for a device; write one word, e.g. edgeseg devices add pi {url}")
    if ssh_config and not ssh_config.is_file():
        raise EdgesegError(f"--ssh-config {ssh_config} is no file; name one like ~/.ssh/config, or leave it out")
    config = str(ssh_config.resolve()) if ssh_config else None
    entry = Entry(url, python, folder, config, tuple(shlex.split(recover or "")))
    with closing(make(name, entry)) as device:
        if probing:
            device.probe()
    path = book.add(name, entry)
    emit(asdict(entry), as_json, f"{name} is {url}, kept in {path}")


@devices.command("emulate")
def emulate(
    name: Annotated[str, typer.Argument(metavar="BOARD", help="pi5 or pi4.")],
    sources: Annotated[
        Path | None, typer.Option(help="A list of apt sources that has arm64, if this machine's own do not.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Unpack everything again.")] = False,
    as_json: Json = False,
) -> None:
    """Make an aarch64 system to run an artifact's numbers on, in ~/.cache/edgeseg: 80 MB of packages and wheels, nothing is installed.

    Afterwards `-d emulated://BOARD` is a device: its masks are those of the processor, its times nobody's, and marked so.

    Example: edgeseg devices emulate pi5
    """
    from edgeseg import schema
    from edgeseg.runtimes.devices import sysroot

    system = sysroot.sysroot(name)
    if fresh:
        system.clear()
    with talk.status(f"making {name}") as status:
        made = sysroot.assemble(system, lambda line: status.update(f"{name}: {line}"), sources)
    parts = f"Python {made.python}, {len(made.debs)} packages and {len(made.wheels)} wheels"
    emit(schema.dump(made), as_json, f"emulated://{name} is in {system.made.parent}: {parts}")


@devices.command("restore")
def restore(
    name: Annotated[str, typer.Argument(metavar="DEVICE", help="A name or an address.")], as_json: Json = False
) -> None:
    """Put back the settings that a measurement with --prepare has changed and, being killed, has left so.

    Example: edgeseg devices restore local
    """
    from edgeseg.runtimes.devices import open_device
    from edgeseg.runtimes.devices.prepare import put_back

    with closing(open_device(name)) as device:
        lines = put_back(device)
    emit({"restored": lines}, as_json, "\n".join(lines) or f"nothing was left changed on {name}")


@devices.command("recover")
def recovered(
    name: Annotated[str, typer.Argument(metavar="DEVICE", help="A name, added with --recover.")],
    limit: Annotated[float, typer.Option(min=1, help="Seconds to wait until it answers.")] = 300,
    as_json: Json = False,
) -> None:
    """Switch a device off and on by the command it was added with, and wait until it answers. A sweep does so by itself.

    Example: edgeseg devices recover pi
    """
    from edgeseg.runtimes.devices.recover import recover

    with talk.status(f"switching {name} off and on"):
        seconds = recover(name, limit)
    emit({"device": name, "seconds": round(seconds, 1)}, as_json, f"{name} answers again after {seconds:.0f} s")


def _asked(name: str) -> tuple[Facts, DeviceState, Reading]:
    from edgeseg.runtimes.devices import open_device
    from edgeseg.runtimes.telemetry import take

    with closing(open_device(name)) as device:
        return device.probe(), device.state(), take(device.sensed())


def _rows(facts: Facts, state: DeviceState, sensors: Reading) -> list[tuple[str, object]]:
    clocks = ", ".join(f"{mhz:.0f}" for mhz in state.clusters_mhz)
    flags = ", ".join(f"{name} {value}" for name, value in sensors.flags.items() if " " not in name)  # not of each core
    python = f"{facts.python}, {facts.executable}" if facts.python else "none: for runtimes' own benchmarks (--tool)"
    degrees = None if state.temperature_c is None else f"{state.temperature_c:.1f} °C"
    return [
        ("board", facts.model),
        (
            "processor",
            f"{facts.cpu}, {facts.cores} cores, {facts.memory_bytes / 2**30:.1f} GiB" if facts.cores else facts.cpu,
        ),
        ("system", f"{facts.system}, called {facts.name}"),
        ("load, clocks", f"{state.load_1min}, {clocks or 'unknown'} MHz, governor {state.governor or 'unknown'}"),
        ("temperature", degrees),
        ("sensors", flags or None),
        ("Python", python),
        ("runtimes", ", ".join(f"{name} {version}" for name, version in facts.runtimes.items()) or "none"),
    ]

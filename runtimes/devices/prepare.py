"""Settings of a device that a measurement may ask for: read first, set, and put back, after a crash too.

What they were is written down on this machine, beside the devices file, before anything is changed. Whoever measures there next, or
`edgeseg devices restore`, finds what a run that was killed has left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.runtimes.devices import shell
from edgeseg.runtimes.devices.tokens import Token, claim, token_path

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Device

PREPARED = "prepared"
"""The folder of the tokens."""

ROOT = """root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
"""
"""For the beginning of a script: its user's own rights, or those that sudo gives without a password."""


@dataclass(frozen=True)
class Setting:
    """Something of a device that can be read and set.

    read:   a script that prints it in one line; it fails, or prints nothing, where there is no such thing.
    write:  a script that sets it to `$1`, which is what `read` printed, or `wanted`.
    usual:  what is asked for where the user gives no value; null where there is none.
    wanted: what was read and what is asked for, to what is written.
    proven: whether `read` prints what was written.
    caveat: why a figure that is measured so is no headline; null where it may be one.
    absent: what it is that a device lacks on which `read` fails; null where it may fail for other reasons too.
    """

    read: str
    write: str
    usual: str | None
    wanted: Callable[[str, str], str] = lambda before, asked: asked
    proven: bool = True
    caveat: str | None = None
    absent: str | None = None


SETTINGS: Registry[Setting] = Registry("setting")

SETTINGS.add(
    "governor",  # of each group of cores: `policy0=schedutil policy4=schedutil`
    Setting(
        read="cd /sys/devices/system/cpu/cpufreq && set -- policy*/scaling_governor && [ -e $1 ] && "
        'echo $(for f; do echo "${f%/*}=$(cat $f)"; done)',
        write=ROOT + 'cd /sys/devices/system/cpu/cpufreq && for each in $1; do root sh -c \'echo "$1" >"$2"\' sh '
        '"${each#*=}" "${each%%=*}/scaling_governor" || exit; done',
        usual="performance",
        wanted=lambda before, asked: re.sub(r"=\S+", lambda _: f"={asked}", before),
        absent="its kernel has no cpufreq, as on most virtual machines; leave governor out",
    ),
)
SETTINGS.add(
    "nvpmodel",  # a Jetson's power mode, by its number
    Setting(read=ROOT + "root nvpmodel -q | tail -n 1", write=ROOT + 'root nvpmodel -m "$1"', usual=None),
)
SETTINGS.add(
    "jetson-clocks",  # clocks at their highest; what they were is what the tool itself stores
    Setting(
        read=ROOT
        + 'f=$(mktemp -u) && root jetson_clocks --store "$f" >/dev/null && root cat "$f" | tr "\\n" "|" && root rm "$f"',
        write=ROOT
        + 'if [ "$1" = on ]; then root jetson_clocks; else f=$(mktemp) && printf %s "$1" | tr "|" "\\n" >"$f" && '
        'root jetson_clocks --restore "$f" && rm "$f"; fi',
        usual="on",
        proven=False,
    ),
)
SETTINGS.add(
    "fixed-performance",  # Android's mode, from 11 on
    Setting(
        # it cannot be read: it is off after each start, and nothing but a tester's shell switches it on
        read='[ "$(getprop ro.build.version.sdk)" -ge 30 ] && echo false',
        write='said=$(cmd power set-fixed-performance-mode-enabled "$1" 2>&1) && [ -z "$said" ] || { echo "$said" >&2; exit 1; }',
        usual="true",
        proven=False,
        caveat="measured in Android's fixed performance mode, below the most that the phone can do: to compare, not to quote",
    ),
)


class Refused(EdgesegError):
    """A device does not take a setting."""


def parse(text: str) -> dict[str, str]:
    """`governor=powersave,fixed-performance` as setting -> value.

    Raises:
        EdgesegError: there is no such setting, or it needs a value.
    """
    asked = {}
    for word in filter(None, text.split(",")):
        name, _, value = word.partition("=")
        usual = SETTINGS[name].usual
        if not value and usual is None:
            raise EdgesegError(f"{name} needs a value, e.g. {name}=0")
        asked[name] = value or str(usual)
    return asked


def caveats(asked: Mapping[str, str]) -> list[str]:
    """Why not to quote what is measured so."""
    return [caveat for name in asked if (caveat := SETTINGS[name].caveat)]


@contextmanager
def prepared(device: Device, asked: Mapping[str, str]) -> Iterator[list[str]]:
    """A device whose settings are as `asked` inside the block and as they were after it; notes on what was put back before it.

    Raises:
        EdgesegError: it has no such setting, or does not take it; it is then as it was. Another run has it prepared.
    """
    notes = put_back(device, only_left=True)
    if not asked:
        yield notes
        return
    before = {name: _read(device, name) for name in asked}
    path, touched = claim(PREPARED, device.url, before), dict[str, str]()
    ended: EdgesegError | None = None
    try:
        for name, value in asked.items():
            touched[name] = before[name]
            try:
                _write(device, name, SETTINGS[name].wanted(before[name], value))
            except Refused:
                if not SETTINGS[name].proven:  # and so not half set either, as governors may be
                    del touched[name]
                raise
        yield notes
    except EdgesegError as error:
        ended = error
        raise
    finally:
        try:
            _restore(device, touched, path)
        except EdgesegError as error:
            if ended is None:
                raise
            ended.args = (f"{ended}; {error}",)  # what went wrong first is what this ends with


def put_back(device: Device, only_left: bool = False) -> list[str]:
    """Undo what a run has left of its settings: a line for each; none where nothing was left.

    only_left: a run that is still at work is left alone.

    Raises:
        EdgesegError: a run is still at work.
    """
    path = token_path(PREPARED, device.url)
    if not path.exists():
        return []
    token = schema.read(Token, path)
    if token.alive:
        if only_left:
            return []
        raise EdgesegError(
            f"{device.address} is prepared for process {token.pid}, which will put it back; end it first"
        )
    _restore(device, token.before, path)
    return [f"{name} was put back, which a run of {token.created} had left changed" for name in token.before]


def _restore(device: Device, before: Mapping[str, str], path: Path) -> None:
    """Put back what is not as it was, the last first; what cannot be stays written down."""
    try:
        for name, value in reversed(list(before.items())):
            if not (SETTINGS[name].proven and _read(device, name) == value):
                _write(device, name, value)
    except EdgesegError as error:
        left = f"{', '.join(before)} on {device.address} not put back, as {path} has it"
        raise EdgesegError(f"{error}; {left}: edgeseg devices restore {device.address}") from error
    path.unlink(missing_ok=True)


def _read(device: Device, name: str) -> str:
    done = shell.run(device, ["sh", "-c", SETTINGS[name].read], what=f"reading {name}")
    if done.code or not done.text.strip():
        why = SETTINGS[name].absent or f"reading it {done.ending}"
        raise EdgesegError(f"{device.address} has no {name} that can be read and so put back: {why}")
    return done.text.strip()


def _write(device: Device, name: str, value: str) -> None:
    """Set it and see that it is set."""
    done = shell.run(device, ["sh", "-c", SETTINGS[name].write, "sh", value], what=f"setting {name}")
    if done.code:
        raise Refused(f"{device.address} does not take {name}; setting it {done.ending}")
    if SETTINGS[name].proven and (now_is := _read(device, name)) != value:
        raise Refused(f"{device.address} does not take {name}: {value} was set and it is {now_is}")

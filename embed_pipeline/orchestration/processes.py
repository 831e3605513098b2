"""Which process works on a run, and whether it is still there: known for certain only on the machine it runs on."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

_PROC = Path("/proc")


class Whereabouts(Enum):
    """What this process can tell of another one."""

    HERE = "here"
    GONE = "gone"
    UNKNOWN = "unknown"


def this_process() -> str:
    """What names this process for others; empty where the system does not tell enough.

    A process id means something only within one start of one machine, and within one container; the time at which the
    process began tells it from a later one with the same id.
    """
    place = _place()
    born = _born(os.getpid())
    return f"{place}/{os.getpid()}/{born}" if place and born else ""


def whereabouts(process: str) -> Whereabouts:
    """What has become of a process.

    Args:
        process: What ``this_process`` gave there.
    """
    place, _, rest = process.partition("/")
    pid, _, born = rest.partition("/")
    if not place or place != _place() or not pid.isdigit() or not born:
        return Whereabouts.UNKNOWN
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return Whereabouts.GONE
    except OSError:
        # It belongs to another user; what can be read of it is seen below.
        pass
    if not (now_born := _born(int(pid))):
        # Gone since, or hidden from us.
        return Whereabouts.UNKNOWN
    return Whereabouts.HERE if now_born == born else Whereabouts.GONE


def _place() -> str:
    """This start of this machine, and the container within it."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = (_PROC / "self/ns/pid").readlink().name
    except OSError:
        return ""
    return f"{boot}.{space.strip('pid:[]')}"


def _born(pid: int) -> str:
    """When a process began, in ticks since the machine's start; ``dead`` for one that only waits to be buried."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # The fields after the name, which may hold anything: the state comes first, the start is the 20th.
    return "dead" if fields[0] in {"Z", "X"} else fields[19]

"""What discovery does about a listing of the library: decided over plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from embed_pipeline.orchestration.versions import content_of, gone_version, is_gone


@dataclass(frozen=True)
class DiscoveryPlan:
    """What one tick of discovery does.

    Args:
        add: Partition keys to add, in the order in which they become key order.
        observe: The version to log for each key whose content is new or has changed, or that vanished.
        retire: Partition keys to remove, with their segments.
        left: How many files wait for a later tick.
        withheld: How many vanished files stay until everything in the library has been read: one of the files that
            were not read may be one of them under a new name.
    """

    add: tuple[str, ...]
    observe: Mapping[str, str]
    retire: tuple[str, ...]
    left: int
    withheld: int = 0

    @property
    def vanished(self) -> list[str]:
        """The keys that vanished."""
        return [key for key, version in self.observe.items() if is_gone(version)]


def plan_discovery(
    listed: Sequence[str],
    fingerprints: Mapping[str, str],
    partitions: Collection[str],
    told: Mapping[str, str],
    *,
    unsure: Collection[str] = (),
    needed: Collection[str] = (),
    limit: int,
    when_vanished: Literal["keep", "retire"],
    unserved: Collection[str] = (),
) -> DiscoveryPlan:
    """Compare the library with what the ledger knows.

    Args:
        listed: The keys of every media file in the library, in its order.
        fingerprints: The content of those that were read so far.
        partitions: The partition keys there are.
        told: The latest version that was logged for each key.
        unsure: The keys that are not listed and may be there all the same: files that are being written, or all of them
            where part of the library cannot be read.
        needed: Contents that a file which is there waits for: what the dataset has of them under a name that is gone
            may be all that is left of them.
        limit: New, changed, vanished and retired keys in one tick, at the most.
        when_vanished: What becomes of a file that is no longer in the library.
        unserved: The keys without any task. Nothing of such a file could be kept, and no run could ever give it a task:
            once gone it is removed, whatever ``when_vanished`` says.
    """
    known, present = set(partitions), set(listed)
    due = [key for key in listed if key in fingerprints and (key not in known or told.get(key) != fingerprints[key])]
    now = due[:limit]
    observe = {key: fingerprints[key] for key in now}
    missing = [key for key in partitions if key not in present and key not in unsure]
    unmarked = [key for key in missing if not is_gone(told.get(key, ""))]
    observe |= {key: gone_version(told.get(key)) for key in unmarked[: limit - len(now)]}
    # A file is retired a tick after it was seen to be gone, by when a renamed one is known by its new name, and not
    # before that name is served.
    retire = [
        key
        for key in missing
        if is_gone(told.get(key, ""))
        and (key in unserved or (when_vanished == "retire" and content_of(told[key]) not in needed))
    ]
    unread = sum(key not in fingerprints for key in listed)
    all_read = not unsure and not unread
    retire, withheld = (retire, 0) if all_read else ([], len(retire))
    retire_now = retire[: limit - len(observe)]
    return DiscoveryPlan(
        add=tuple(key for key in now if key not in known),
        observe=observe,
        retire=tuple(retire_now),
        left=sum(map(len, (due, unmarked, retire))) - len(observe) - len(retire_now) + unread,
        withheld=withheld,
    )

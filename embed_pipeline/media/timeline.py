"""One clock for a recording whose own clock may begin anywhere, jump back, or be damaged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from av.packet import Packet

# Packets of one stream are stored in the order of decoding; what goes further back than this is another recording.
_BACK_SEC: Final = 1.0

# A stream's first packet of a recording may lie this far from the first one of another stream.
_APART_SEC: Final = 10.0

# A pause in broadcast formats that is longer than this is a jump of the clock, which these formats allow for.
_BROADCAST_GAP_SEC: Final = 60.0
_GAP_SEC: Final = 3600.0

#: FFmpeg's names of the formats in which recordings can simply be joined, so that the clock may jump.
JOINABLE_FORMATS: Final = frozenset({"mpegts", "mpeg", "ogg"})


@dataclass(slots=True)
class _Recording:
    """A stretch of packets with one clock; times are the file's own, in seconds."""

    shift: float
    first: float
    newest: float
    packets: int = 0
    last: dict[int, float] = field(default_factory=dict)


class Timeline:
    """Times of packets on one clock that never jumps.

    Where the clock of the file jumps, as in recordings that were joined, the second one follows on the first. One
    packet with a wild time moves nothing but itself.

    Args:
        container_format: FFmpeg's name of the format.
        declared_end: The end of the file in seconds of its own clock, as its header has it, or None. Up to there no
            pause is too long.
    """

    def __init__(self, container_format: str, declared_end: float | None = None) -> None:
        broadcast = bool(JOINABLE_FORMATS & set(container_format.split(",")))
        self._gap_sec = _BROADCAST_GAP_SEC if broadcast else _GAP_SEC
        self._declared_end = -1.0 if declared_end is None or broadcast else declared_end + 1.0
        self._recordings: list[_Recording] = []
        self._bases: dict[int, float] = {}
        self.end: float | None = None
        """End of the last packet so far, in seconds of this timeline."""
        self.start: float | None = None
        """Time of the earliest packet so far, in seconds of this timeline."""

    def place(self, packet: Packet[Any]) -> None:
        """Set the times of a packet to those of this timeline.

        Args:
            packet: The next packet of the file, in the order of reading; changed in place. One without any time gets
                the end of the packet before it.
        """
        pts, dts = packet.pts, packet.dts
        if pts is None and dts is None and not packet.size:
            return  # the empty packet that ends a stream
        index = packet.stream_index
        base = self._bases.get(index) or self._bases.setdefault(index, float(packet.time_base))
        length = (packet.duration or 0) * base
        if pts is None and dts is None:
            known = self._recordings[-1].last.get(index) if self._recordings else None
            pts = dts = packet.pts = packet.dts = round(0 if known is None else (known + length) / base)
        decode = base * (pts if dts is None else dts)  # type: ignore[operator]
        show = decode if pts is None else base * pts
        recording = self._recording(index, decode, show)
        recording.last[index] = decode
        recording.newest = max(recording.newest, decode)
        recording.packets += 1
        if recording.shift:
            ticks = round(recording.shift / base)
            packet.pts = None if pts is None else pts + ticks
            packet.dts = None if dts is None else dts + ticks
        time = show + recording.shift
        self.start = time if self.start is None else min(self.start, time)
        self.end = max(time + length, time if self.end is None else self.end)

    def _recording(self, index: int, decode: float, show: float) -> _Recording:
        if not self._recordings:
            self._recordings.append(_Recording(shift=0.0, first=decode, newest=decode))
        current = self._recordings[-1]
        before = self._recordings[-2] if len(self._recordings) > 1 else None
        goes_on = (
            before is not None
            and abs(decode - before.last.get(index, -math.inf)) <= _BACK_SEC
            and abs(decode - current.last.get(index, -math.inf)) > _BACK_SEC
        )
        if before is not None and goes_on:
            # Streams are interleaved: one may go on with the recording before when another has begun the next. Or it
            # was one wild time, and no other recording.
            if current.packets == 1 and index in current.last:
                self._recordings.pop()
            return before
        if self._fits(current, index, decode):
            return current
        end = show if self.end is None else self.end
        self._recordings.append(_Recording(shift=end - show, first=decode, newest=decode))
        return self._recordings[-1]

    def _fits(self, recording: _Recording, index: int, decode: float) -> bool:
        known = recording.last.get(index)
        earliest = recording.first - _APART_SEC if known is None else known - _BACK_SEC
        latest = max(recording.newest + self._gap_sec, self._declared_end)
        return earliest <= decode <= latest

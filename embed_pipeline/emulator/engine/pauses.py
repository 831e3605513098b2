"""Finding the pauses of a recording, where it can be divided without cutting a word."""

from __future__ import annotations

import numpy as np

from embed_pipeline.emulator.engine.request import FloatArray
from embed_pipeline.emulator.engine.sound import FRAME_SEC

_QUIET = 10 ** (-25 / 10)
_MIN_PAUSE_SEC = 0.3
_MEMORY_SEC = 10.0


class PauseDetector:
    """Finds stretches at least 0.3 s long and 25 dB below what was loud within the last ten seconds or so.

    Args:
        start_sec: Where the recording begins, in seconds.

    Attributes:
        clock: Every pause whose middle lies before this is known.
    """

    def __init__(self, start_sec: float = 0.0) -> None:
        self.clock = start_sec
        self._loud = 0.0
        self._quiet_since: float | None = None
        self._pauses: list[float] = []

    def add(self, start: float, power: FloatArray) -> None:
        """Take in how loud the next moments are.

        Args:
            start: When the first of them is, in seconds.
            power: float32, one value per column of the spectrum.
        """
        fade = float(np.exp(-FRAME_SEC / _MEMORY_SEC))
        time = start
        for value in power.tolist():
            self._loud = max(value, self._loud * fade)
            if value < self._loud * _QUIET or value <= 0:
                if self._quiet_since is None:
                    self._quiet_since = time
            else:
                if self._quiet_since is not None and time - self._quiet_since >= _MIN_PAUSE_SEC:
                    self._pauses.append((self._quiet_since + time) / 2)
                self._quiet_since = None
            time += FRAME_SEC
        quiet = time if self._quiet_since is None else max(self._quiet_since, time - 2 * _MEMORY_SEC)
        self.clock = max(self.clock, quiet)

    def take(self, *, ended: bool = False) -> list[float]:
        """The middles of the pauses found since the last call, in increasing seconds.

        Args:
            ended: Whether nothing will follow.
        """
        if ended:
            self.clock = float("inf")
        pauses, self._pauses = self._pauses, []
        return pauses

"""How a local command ends: when a supervisor ends it or its terminal is closed, in the same order as with Ctrl+C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AGAIN_AFTER_SEC = 0.05


@contextmanager
def interrupted_in_order() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, so that what was started is ended.

    A signal that is ignored, as SIGHUP under `nohup`, stays ignored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {one: signal.getsignal(one) for one in signals if signal.getsignal(one) is not signal.SIG_IGN}
    for one in before:
        signal.signal(one, interrupt)
    try:
        with _never_lost():
            yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _never_lost() -> Iterator[None]:
    """Raise an interrupt again that came where Python drops what is raised: in a finalizer, or for a weak reference."""
    hook = sys.unraisablehook
    timers: list[threading.Timer] = []

    def again(dropped: UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)
            return
        # Not from here, where it would be dropped as well.
        timers.append(threading.Timer(_AGAIN_AFTER_SEC, os.kill, [os.getpid(), signal.SIGTERM]))
        timers[-1].start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()

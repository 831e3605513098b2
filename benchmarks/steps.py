"""Way of one sound file of five seconds from discovery to Parquet: the modules it enters, and how often it moves on.

    python benchmarks/steps.py

A discovery tick, the submitting run, a tick of the ready sensor and the collecting run, all through Dagster in this
process, with an emulator in a process of its own. Counted are the package's modules but for the client (and the
emulator, which is the platform): a module is entered when a function of it is called, and a call moves on when the
nearest caller within those modules is another one. `--modules` lists them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import warnings
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from stores import stores_in

from embed_pipeline import (
    Blueprint,
    EmbedClientResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
    PipelinePolicy,
    build_definitions,
)
from embed_pipeline.commands.platform import emulator_process
from embed_pipeline.orchestration.daemon import InProcessDaemon

_PACKAGE = "embed_pipeline."
_LEFT_OUT = ("embed_pipeline.client", "embed_pipeline.emulator", "embed_pipeline.commands")
_ROOMS = ("ledger", "pipeline", "orchestration")
_AIM = 20


class Steps:
    """Counts the modules that calls enter, and the calls from one of them into another."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.moves: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Count what is called, in this thread and in those that are started meanwhile."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    def _profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call" or (name := _module_of(frame)) is None:
            return
        self.calls[name] += 1
        caller = frame.f_back
        while caller is not None and _module_of(caller) is None:
            caller = caller.f_back
        if caller is not None and (before := _module_of(caller)) != name:
            self.moves[str(before), name] += 1


def _module_of(frame: FrameType) -> str | None:
    name: str = frame.f_globals.get("__name__", "")
    if not name.startswith(_PACKAGE) or name.startswith(_LEFT_OUT) or frame.f_code.co_name == "<module>":
        return None
    return name


def write_sound(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(2000)
        sound.writeframes(bytes(5 * 2000))


def embed_one(folder: Path, steps: Steps) -> None:
    """Send one file through the pipeline."""
    write_sound(folder / "media" / "sound.wav")
    with (
        stores_in(folder, postgres=False) as stores,
        stores.instance() as instance,
        emulator_process(state=folder / "emulator", media_root=folder / "media", engine="instant") as url,
    ):
        blueprint = Blueprint(
            client=EmbedClientResource(base_url=url),
            library=MediaLibraryResource(
                location=str(folder / "media"), settle_sec=0, cache=str(folder / "fingerprints.sqlite")
            ),
            store=EmbeddingStoreResource(root=str(folder / "embeddings")),
            ledger=stores.ledger,
            policy=PipelinePolicy(submit_automatically=True),
        )
        daemon = InProcessDaemon(build_definitions(blueprint), instance, blueprint.names)
        with steps.traced():
            submitted, collected = daemon.discover(), daemon.collect_ready()
        assert [run.success for run in (*submitted.runs, *collected.runs)] == [True, True]
        assert list((folder / "embeddings" / "segments").rglob("*.parquet"))


def report(steps: Steps, *, modules: bool) -> None:
    rooms: dict[str, list[str]] = {}
    for name in sorted(steps.calls):
        rooms.setdefault(name.split(".")[1], []).append(name)
    own = sum(len(rooms.get(room, ())) for room in _ROOMS)
    moves = sum(count for pair, count in steps.moves.items() if all(name.split(".")[1] in _ROOMS for name in pair))
    print(f"{len(steps.calls)} modules entered, {steps.moves.total()} calls from one into another")
    for room, names in rooms.items():
        print(f"    {room:14}{len(names):4} modules, {sum(steps.calls[name] for name in names)} calls")
        if modules:
            print("\n".join(f"        {name} ({steps.calls[name]} calls)" for name in names))
    print(f"{own} of them in {', '.join(_ROOMS)} (aim: at most {_AIM}), {moves} calls between those")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", action="store_true", help="list the modules")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        embed_one(Path(folder), steps)
    report(steps, modules=arguments.modules)


if __name__ == "__main__":
    main()

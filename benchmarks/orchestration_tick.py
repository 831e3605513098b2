"""Cost of a sensor tick, of `status` and of `plan` among very many media files: seconds, requests, memory.

    python benchmarks/orchestration_tick.py --known 100000 --known 1000000 --in-flight 10000
    python benchmarks/orchestration_tick.py --known 100000 --in-flight 10000 --postgres

1,000 tasks in flight among 10,000 files without options, under a minute on a quiet machine. `--postgres` keeps the
ledger and Dagster's storage on a PostgreSQL server (see stores.py). `--profile FOLDER` writes what cProfile counted in
each of the measured parts.

The platform is an emulator in a process of its own that holds as many tasks, so that every page of its list is real;
beside the tick of the ready sensor stand those pages alone, fetched through the same client. The ledger is filled by
bulk inserts, and the library's listing is simulated, with 100 files changed. Each part is measured in a process of its
own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import httpx
from rich.console import Console
from stores import KnownFiles, Stores, fill_ledger, stores_in

from embed_pipeline import (
    Blueprint,
    EmbedClientResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
    PipelinePolicy,
    build_definitions,
)
from embed_pipeline.client import EmbedClient, MediaSource
from embed_pipeline.commands.context import CommandContext
from embed_pipeline.commands.platform import emulator_process
from embed_pipeline.commands.status import run_status
from embed_pipeline.media import Listing, MediaFile, MediaLibrary
from embed_pipeline.pipeline.plan import make_plan
from embed_pipeline.pipeline.sources import typed_request

_CHANGED = 100
_PARTITIONS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Case:
    """What is measured, as another process takes it.

    Args:
        folder: Where everything is.
        url: The platform.
        ledger_url: The ledger's URL; empty for SQLite below the dataset.
        known: Media files in the ledger.
        first_at: When the first task in flight was created, in seconds since 1970.
        last_at: When the last one was.
    """

    folder: str
    url: str
    ledger_url: str
    known: int
    first_at: float
    last_at: float


class SimulatedLibrary:
    """A media library whose listing and contents are made up: some of the known files have changed.

    Args:
        files: The known files.
    """

    def __init__(self, files: KnownFiles) -> None:
        changed = set(range(0, files.count, max(files.count // _CHANGED, 1))[:_CHANGED])
        self.listing = Listing(
            tuple(files.file(number, modified=1.75e9 if number in changed else 1.7e9) for number in range(files.count))
        )

    def list(self) -> Listing:
        """Return the listing."""
        return self.listing

    def fingerprints(self, files: Sequence[MediaFile], *_: object, **__: object) -> dict[str, str]:
        """Return contents that nobody has seen before."""
        return {file.key: f"changed {file.key}" for file in files}

    def probe(self, _file: MediaFile) -> Any:
        """Return what a video of ten minutes holds."""
        from embed_pipeline.media import MediaInfo

        return MediaInfo(600.0, has_video=True, has_audio=True, width=1280, height=720)


class SimulatedLibraryResource(MediaLibraryResource):
    """The simulated library, made once, because its making is not what is measured."""

    def library(self) -> MediaLibrary:
        """Return the library."""
        return cast("MediaLibrary", _LIBRARY[-1])


_LIBRARY = [SimulatedLibrary(KnownFiles(0))]


def blueprint_of(case: Case) -> Blueprint:
    stores = Stores(Path(case.folder) / "dagster", case.ledger_url)
    return Blueprint(
        client=EmbedClientResource(base_url=case.url),
        library=SimulatedLibraryResource(location="simulated.txt"),
        store=EmbeddingStoreResource(root=f"{case.folder}/embeddings"),
        ledger=stores.ledger,
        policy=PipelinePolicy(submit_automatically=True),
    )


def create_tasks(url: str, blueprint: Blueprint, count: int) -> list[tuple[str, float]]:
    """Create tasks on the platform; return the id of each, and when it was answered."""
    request = blueprint.settings.request("video")
    with EmbedClient(api_key="benchmark", base_url=url) as client, ThreadPoolExecutor(8) as pool:

        def create(number: int) -> tuple[str, float]:
            source = MediaSource(url=f"http://media.example.com/{number:06}.mp4")
            return str(client.v_2.tasks.create(**typed_request(request, source)).id), time.time()

        return list(pool.map(create, range(count)))


def requests_seen(url: str) -> int:
    """Return how many requests the platform has answered."""
    summary = httpx.get(f"{url.removesuffix('/v1.3')}/_emulator/journal/summary").json()["requests"]
    return sum(count for by_status in summary.values() for count in by_status.values())


def pages_alone(case: Case) -> Callable[[], str]:
    """Fetch the pages that a ready tick fetches, and nothing else."""

    def work() -> str:
        start, end = datetime.fromtimestamp(case.first_at, UTC), datetime.fromtimestamp(case.last_at, UTC)
        margin = timedelta(minutes=2)
        with EmbedClient(api_key="benchmark", base_url=case.url) as client:
            listed = client.v_2.tasks.list(
                started_at=(start - margin).replace(microsecond=0),
                ended_at=(end + margin).replace(microsecond=0),
                page_limit=50,
            )
            return f"{sum(1 for _ in listed)} tasks listed"

    return work


def tick(case: Case, sensor: str) -> Callable[[], str]:
    """Evaluate a sensor once, without running what it asks for."""
    blueprint = blueprint_of(case)
    definitions = build_definitions(blueprint)
    one = definitions.get_repository_def().get_sensor_def(blueprint.names.plain(sensor))
    if sensor == "media_discovery_sensor" and case.known:
        _LIBRARY.append(SimulatedLibrary(KnownFiles(case.known)))
    stores = Stores(Path(case.folder) / "dagster", case.ledger_url)

    def work() -> str:
        resources = dict(definitions.resources or {})
        with (
            stores.instance() as instance,
            dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources) as context,
        ):
            answer = one.evaluate_tick(context)
        return answer.skip_message or f"{len(answer.run_requests or [])} runs requested"

    return work


def status(case: Case, *, as_json: bool = False) -> Callable[[], str]:
    """Run `embed-pipeline status`, and throw away what it shows."""
    environment = {
        "DAGSTER_HOME": f"{case.folder}/dagster",
        "EMBED_BASE_URL": case.url,
        "EMBED_MEDIA": case.folder,
        "EMBED_OUTPUT": f"{case.folder}/embeddings",
        "EMBED_LEDGER": case.ledger_url,
    }
    context = CommandContext(Path(environment["DAGSTER_HOME"]), environment, None)

    def work() -> str:
        shown = io.StringIO()
        run_status(context, (), as_json, Console(file=shown, width=120))
        return f"{shown.tell()} characters shown"

    return work


def plan(case: Case) -> Callable[[], str]:
    """Plan a submission of the whole library."""
    blueprint = blueprint_of(case)
    _LIBRARY.append(SimulatedLibrary(KnownFiles(case.known)))

    def work() -> str:
        with blueprint.pipeline(connect=False) as pipeline:
            return make_plan(pipeline).headline

    return work


PARTS: dict[str, Callable[[Case], Callable[[], str]]] = {
    "list pages alone": pages_alone,
    "ready sensor, nothing has ended": lambda case: tick(case, "embedding_ready_sensor"),
    "ready sensor, everything has ended": lambda case: tick(case, "embedding_ready_sensor"),
    "status": status,
    "status --json": lambda case: status(case, as_json=True),
    "plan": plan,
    f"discovery, {_CHANGED} files changed": lambda case: tick(case, "media_discovery_sensor"),
}


def measure_part(name: str, case: Case, profile: Path | None) -> dict[str, Any]:
    """Measure one part in this process."""
    work = PARTS[name](case)
    warm_up(case)
    profiler = cProfile.Profile() if profile is not None else None
    before = requests_seen(case.url)
    held, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    said = profiler.runcall(work) if profiler is not None else work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if profiler is not None and profile is not None:
        profile.mkdir(parents=True, exist_ok=True)
        profiler.dump_stats(profile / f"{name.replace(' ', '-')}.prof")
    requests = requests_seen(case.url) - before
    return {"wall": wall, "cpu": cpu, "requests": requests, "held": held, "peak": memory_mb("VmHWM"), "said": said}


def warm_up(case: Case) -> None:
    """Import what a code server has imported long since: a page of the list, and the sensors of an empty pipeline."""
    with tempfile.TemporaryDirectory() as folder, stores_in(Path(folder), postgres=False) as stores:
        empty = Case(folder, case.url, stores.ledger_url, 0, 0.0, time.time())
        for sensor in ("embedding_ready_sensor", "media_discovery_sensor"):
            tick(empty, sensor)()
        with EmbedClient(api_key="benchmark", base_url=case.url) as client:
            next(iter(client.v_2.tasks.list(page_limit=1)), None)


def memory_mb(what: str) -> float:
    """Return what this process holds (`VmRSS`), or held at the most (`VmHWM`); getrusage would tell the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def measure(known: int, in_flight: int, folder: Path, *, postgres: bool, profile: Path | None) -> None:
    """Fill ledger and instance, and measure each part in a process of its own."""
    with (
        emulator_process(
            state=folder / "emulator", media_root=None, engine="instant", instant_duration_sec=10, hold=True
        ) as url,
        stores_in(folder, postgres=postgres) as stores,
        stores.instance() as instance,
    ):
        case = Case(str(folder), url, stores.ledger_url, known, 0.0, 0.0)
        blueprint = blueprint_of(case)
        tasks = create_tasks(url, blueprint, in_flight)
        case = Case(str(folder), url, stores.ledger_url, known, tasks[0][1], tasks[-1][1])
        files = KnownFiles(known, tasks)
        with blueprint.pipeline(connect=False) as pipeline:
            seconds = fill_ledger(pipeline.ledger, pipeline.target, files)
        begin, keys = time.perf_counter(), files.keys()
        for start in range(0, len(keys), _PARTITIONS_AT_ONCE):
            instance.add_dynamic_partitions(blueprint.names.partitions, keys[start : start + _PARTITIONS_AT_ONCE])
        print(
            f"\n{known} files known, {in_flight} tasks in flight, {'PostgreSQL' if postgres else 'SQLite'} "
            f"(ledger filled in {seconds:.0f} s, partitions in {time.perf_counter() - begin:.0f} s)"
        )
        pages = None
        for name in PARTS:
            if name.endswith("everything has ended"):
                httpx.post(f"{url.removesuffix('/v1.3')}/_emulator/tasks/release", json={}).raise_for_status()
            found = measured_elsewhere(name, case, profile)
            pages = pages or found["wall"]
            beside = f"{found['wall'] / pages:6.2f} times the pages" if name.startswith("ready") else ""
            print(
                f"{name:36}{found['wall']:8.2f} s wall{found['cpu']:8.2f} s processor{found['requests']:6} requests"
                f"{found['peak']:7.0f} MB peak, {found['held']:.0f} before{beside}"
            )
            print(f"    {found['said']}")


def measured_elsewhere(name: str, case: Case, profile: Path | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", name, "--case", json.dumps(asdict(case))]
    if profile is not None:
        command += ["--profile", str(profile / str(case.known))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, action="append", help="media files; may be repeated (10,000)")
    parser.add_argument("--in-flight", type=int, default=1_000, help="tasks in flight among them (1,000)")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL instead of SQLite")
    parser.add_argument("--profile", type=Path, help="the folder for profiles")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if arguments.part:
        print(json.dumps(measure_part(arguments.part, Case(**arguments.case), arguments.profile)))
        return
    for known in arguments.known or [10_000]:
        with tempfile.TemporaryDirectory() as root:
            measure(known, arguments.in_flight, Path(root), postgres=arguments.postgres, profile=arguments.profile)


if __name__ == "__main__":
    main()

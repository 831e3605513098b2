"""What a media file costs in both assets, beside the bare cost of Dagster's own events for the same range runs.

Run it with `python benchmarks/orchestration_batches.py`: 300 files, under a minute on a quiet machine. The figures that
are quoted come from `--files 1000 --files 5000`; add `--one-by-one 10` for one run per partition and asset, each in a
process of its own, and `--postgres /usr/lib/postgresql/15/bin` for PostgreSQL instead of SQLite.

Real media files, a real emulator with the instant engine in a process of its own, real Parquet. The bare pair of assets
logs one event for each partition with metadata and tags of the same shape and does nothing else. Both kinds of run take
turns over the same ranges on the same instance, so that whatever else the machine does falls on both.
"""

# No deferred annotations here: Dagster reads the class of a step's context from its signature.

import argparse
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from embed_pipeline.orchestration.driver import Driver
from embed_pipeline.orchestration.events import NOTHING, output_without_events
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.pipeline import build_definitions
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.ranges import KeyRange, contiguous_ranges
from embed_pipeline.orchestration.states import MediaState

from embed_pipeline.commands.emulator_process import emulator_process
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_SETTINGS = "telemetry:\n  enabled: false\n"


def write_sounds(folder: Path, count: int) -> None:
    """Write small sound files of four seconds, each with content of its own."""
    folder.mkdir(parents=True)
    for number in range(count):
        with wave.open(str(folder / f"sound-{number:06}.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(1)
            sound.setframerate(2000)
            sound.writeframes(number.to_bytes(4, "big") * 2100)


@dataclass
class Spent:
    """Wall and processor seconds of runs of one kind, run by run."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


@contextmanager
def instance_in(folder: Path, postgres: Path | None) -> Iterator[dg.DagsterInstance]:
    folder.mkdir(parents=True)
    if postgres is None:
        (folder / "dagster.yaml").write_text(_SETTINGS)
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            yield instance
        return
    with postgres_server(folder / "postgres", postgres) as url:
        (folder / "dagster.yaml").write_text(f"{_SETTINGS}storage:\n  postgres:\n    postgres_url: {url}\n")
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            yield instance


@contextmanager
def postgres_server(data: Path, binaries: Path) -> Iterator[str]:
    """A PostgreSQL server of our own; as root it runs as the user `postgres`, who will not run as root."""
    data.mkdir(parents=True)
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        for one in (data, *list(data.parents)[:3]):
            one.chmod(0o755)
        subprocess.run(["chown", "-R", user, str(data)], check=True)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd=data)

    run(str(binaries / "initdb"), "-D", str(data / "db"), "-U", "postgres", "--auth=trust")
    port = 54329
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    run(str(binaries / "pg_ctl"), "-D", str(data / "db"), "-o", options, "-l", str(data / "log"), "-w", "start")
    try:
        # SQLAlchemy 2.1 takes a plain postgresql:// for psycopg 3, which dagster-postgres does not bring.
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data / "db"), "-m", "fast", "stop")


def bare_definitions(shape: dict[str, dg.AssetMaterialization], partitions: str, per_run: int) -> dg.Definitions:
    """Two assets that log the same number of events with metadata of the same shape, and do nothing else."""
    media = dg.DynamicPartitionsDefinition(name=partitions)

    def bare(name: str, like: dg.AssetMaterialization, deps: list[str]) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            deps=deps,
            partitions_def=media,
            dagster_type=NOTHING,
            backfill_policy=dg.BackfillPolicy.multi_run(per_run),
        )
        def asset(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
            for key in context.partition_keys:
                context.log_event(dg.AssetMaterialization(name, partition=key, metadata=like.metadata, tags=like.tags))
            yield output_without_events()

        return asset

    assets = [
        bare("bare_tasks", shape["embedding_tasks"], []),
        bare("bare_segments", shape["segment_embeddings"], ["bare_tasks"]),
    ]
    jobs = [
        dg.define_asset_job(f"run_{one.key.to_user_string()}", [one], executor_def=dg.in_process_executor)
        for one in assets
    ]
    return dg.Definitions(assets=assets, jobs=jobs)


def shapes(instance: dg.DagsterInstance, blueprint: Blueprint) -> dict[str, dg.AssetMaterialization]:
    """One event of each asset, as the pipeline has just logged it."""
    found = {}
    for key in (blueprint.names.embedding_tasks, blueprint.names.segment_embeddings):
        record = instance.fetch_materializations(key, limit=1).records[0]
        if record.asset_materialization is not None:
            found[key.to_user_string()] = record.asset_materialization
    return found


def measure(files: int, per_run: int, folder: Path, postgres: Path | None) -> None:
    write_sounds(folder / "media", files)
    with (
        instance_in(folder / "dagster", postgres) as instance,
        emulator(folder) as url,
    ):
        blueprint = blueprint_for(folder, url, per_run, files)
        definitions = build_definitions(blueprint)
        driver = Driver(definitions, instance, blueprint.names)
        discovery = Spent()
        with discovery.measured():
            driver.discover()
        order = list(Ledger(instance, blueprint.names).partitions())
        ranges = contiguous_ranges(order, order, per_run)
        ours, bare = Spent(), Spent()
        run_both(driver, blueprint, ranges[0], ours)
        bare_repository = bare_definitions(
            shapes(instance, blueprint), blueprint.names.partitions, per_run
        ).get_repository_def()

        def run_bare(some: KeyRange) -> None:
            with bare.measured():
                for job in ("run_bare_tasks", "run_bare_segments"):
                    result = bare_repository.get_job(job).execute_in_process(
                        instance=instance, tags=some.tags, run_config=_QUIET
                    )
                    assert result.success

        run_bare(ranges[0])
        for number, some in enumerate(ranges[1:]):
            # Who goes first alternates, since the first to touch a page of the database pays for it.
            if number % 2:
                run_bare(some)
                run_both(driver, blueprint, some, ours)
            else:
                run_both(driver, blueprint, some, ours)
                run_bare(some)
        states = list(Ledger(instance, blueprint.names).states().values())
        assert states.count(MediaState.EMBEDDED) == files, states
    report(files, per_run, discovery, ours, bare)


def run_both(driver: Driver, blueprint: Blueprint, some: KeyRange, spent: Spent) -> None:
    with spent.measured():
        for job in (blueprint.names.submit_job, blueprint.names.collect_job):
            result = driver.run(job, some.tags)
            assert result.success, job


def report(files: int, per_run: int, discovery: Spent, ours: Spent, bare: Spent) -> None:
    def each(seconds: list[float], runs: slice = slice(None)) -> float:
        return 1000 * sum(seconds[runs]) / (len(seconds[runs]) * per_run)

    tenth = max(len(ours.wall) // 5, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{files} files, {per_run} in a run; ms for each file, both assets")
    print(f"{'':28}{'pipeline':>10}{'bare events':>13}{'ratio':>8}")
    for name, runs in (("wall", slice(None)), ("  first fifth", slice(tenth)), ("  last fifth", slice(-tenth, None))):
        print(
            f"{name:28}{each(ours.wall, runs):10.1f}{each(bare.wall, runs):13.1f}"
            f"{each(ours.wall, runs) / each(bare.wall, runs):8.2f}"
        )
    print(f"{'processor':28}{each(ours.cpu):10.1f}{each(bare.cpu):13.1f}{each(ours.cpu) / each(bare.cpu):8.2f}")
    print(
        f"discovery {1000 * discovery.wall[0] / files:.1f} ms a file (once); peak memory of the process {peak:.0f} MB"
    )


def blueprint_for(folder: Path, url: str, per_run: int, files: int) -> Blueprint:
    return Blueprint(
        client=EmbedClientResource(base_url=url),
        library=MediaLibraryResource(
            location=str(folder / "media"), settle_sec=0, cache=str(folder / "fingerprints.sqlite")
        ),
        store=EmbeddingStoreResource(root=str(folder / "embeddings")),
        policy=PipelinePolicy(partitions_per_run=per_run, new_files_per_tick=files, tick_budget_sec=600),
    )


@contextmanager
def emulator(folder: Path) -> Iterator[str]:
    with emulator_process(
        state=folder / "emulator", media_root=folder / "media", engine="instant", instant_duration_sec=4
    ) as url:
        yield url


def measure_one_by_one(files: int, folder: Path) -> None:
    """One run for each partition and asset, each in a process of its own, as it would be without ranges."""
    write_sounds(folder / "media", files)
    with instance_in(folder / "dagster", None) as instance, emulator(folder) as url:
        blueprint = blueprint_for(folder, url, 100, files)
        Driver(build_definitions(blueprint), instance, blueprint.names).discover()
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder / "dagster"),
            "EMBED_BASE_URL": url,
            "EMBED_MEDIA": str(folder / "media"),
            "EMBED_OUTPUT": str(folder / "embeddings"),
        }
        begin = time.perf_counter()
        for key in Ledger(instance, blueprint.names).partitions():
            for asset in ("embedding_tasks", "segment_embeddings"):
                command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "embed_pipeline.definitions"]
                subprocess.run(
                    [*command, "--select", asset, "--partition", key], env=environment, check=True, capture_output=True
                )
        wall = time.perf_counter() - begin
        states = list(Ledger(instance, blueprint.names).states().values())
        assert states.count(MediaState.EMBEDDED) == files
    print(f"\none run for each partition and asset: {wall / files:.1f} s a file ({files} files)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, action="append", help="media files; may be repeated (300)")
    parser.add_argument("--per-run", type=int, default=100, help="media files in a run (100)")
    parser.add_argument("--one-by-one", type=int, default=0, help="files to run one by one for comparison (none)")
    parser.add_argument("--postgres", type=Path, help="the folder of PostgreSQL's server programs; SQLite without it")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for files in arguments.files or [300]:
        with tempfile.TemporaryDirectory() as folder:
            measure(files, arguments.per_run, Path(folder) / "work", arguments.postgres)
    if arguments.one_by_one:
        with tempfile.TemporaryDirectory() as folder:
            measure_one_by_one(arguments.one_by_one, Path(folder) / "work")


if __name__ == "__main__":
    main()

"""Cost of a media file in both assets, beside the bare cost of Dagster's own events for the same range runs.

    python benchmarks/orchestration_batches.py --files 1000 --files 5000
    python benchmarks/orchestration_batches.py --files 1000 --postgres

300 files without `--files`, under a minute on a quiet machine. `--postgres` keeps the ledger and Dagster's storage on a
PostgreSQL server (see stores.py), else both are on SQLite. `--one-by-one 10` adds one run for each partition and asset,
each in a process of its own. `--profile FILE` writes what cProfile counted in the pipeline's own runs.

Real media files, a real emulator with the instant engine in a process of its own, real Parquet. The bare pair of assets
logs one event for each partition with metadata and tags of the same shape and does nothing else. Both kinds of run take
turns over the same ranges on the same instance, so that whatever else the machine does falls on both.
"""

# No deferred annotations here: Dagster reads the class of a step's context from its signature.

import argparse
import cProfile
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from stores import Stores, stores_in

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
from embed_pipeline.orchestration.reporting import NOTHING, output_without_events
from embed_pipeline.orchestration.runs import KeyRange, contiguous_ranges

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


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


def measure(files: int, per_run: int, folder: Path, *, postgres: bool, profiler: cProfile.Profile | None) -> None:
    write_sounds(folder / "media", files)
    with (
        stores_in(folder, postgres=postgres) as stores,
        stores.instance() as instance,
        emulator(folder) as url,
    ):
        blueprint = blueprint_for(folder, stores, url, per_run, files)
        daemon = InProcessDaemon(build_definitions(blueprint), instance, blueprint.names)
        discovery = Spent()
        with discovery.measured():
            daemon.discover()
        order = list(instance.get_dynamic_partitions(blueprint.names.partitions))
        ranges = contiguous_ranges(dict.fromkeys(order, per_run), order)
        ours, bare = Spent(), Spent()
        run_both(daemon, blueprint, ranges[0], ours)
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
            run_both(daemon, blueprint, some, ours, profiler)
            if not number % 2:
                run_bare(some)
        require_embedded(blueprint, files)
    report(files, per_run, discovery, ours, bare)


def run_both(
    daemon: InProcessDaemon,
    blueprint: Blueprint,
    some: KeyRange,
    spent: Spent,
    profiler: cProfile.Profile | None = None,
) -> None:
    if profiler is not None:
        profiler.enable()
    with spent.measured():
        for job in (blueprint.names.submit_job, blueprint.names.collect_job):
            result = daemon.run(job, some.tags)
            assert result.success, job
    if profiler is not None:
        profiler.disable()


def require_embedded(blueprint: Blueprint, files: int) -> None:
    with blueprint.pipeline(connect=False) as pipeline:
        states = Counter(pipeline.ledger.states(pipeline.target).values())
        waiting = pipeline.ledger.outbox.count(pipeline.name)
    assert states == {"embedded": files}, states
    assert waiting == 0, waiting


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


def blueprint_for(folder: Path, stores: Stores, url: str, per_run: int, files: int) -> Blueprint:
    return Blueprint(
        client=EmbedClientResource(base_url=url),
        library=MediaLibraryResource(
            location=str(folder / "media"), settle_sec=0, cache=str(folder / "fingerprints.sqlite")
        ),
        store=EmbeddingStoreResource(root=str(folder / "embeddings")),
        ledger=stores.ledger,
        policy=PipelinePolicy(partitions_per_run=per_run, new_files_per_tick=files, tick_budget_sec=600),
    )


@contextmanager
def emulator(folder: Path) -> Iterator[str]:
    with emulator_process(
        state=folder / "emulator", media_root=folder / "media", engine="instant", instant_duration_sec=4
    ) as url:
        yield url


def measure_one_by_one(files: int, folder: Path) -> None:
    """Use one run for each partition and asset, each in a process of its own, as it would be without ranges."""
    write_sounds(folder / "media", files)
    with stores_in(folder, postgres=False) as stores, stores.instance() as instance, emulator(folder) as url:
        blueprint = blueprint_for(folder, stores, url, 100, files)
        InProcessDaemon(build_definitions(blueprint), instance, blueprint.names).discover()
        environment = {
            **os.environ,
            "EMBED_BASE_URL": url,
            "EMBED_MEDIA": str(folder / "media"),
            "EMBED_OUTPUT": str(folder / "embeddings"),
        }
        begin = time.perf_counter()
        for key in instance.get_dynamic_partitions(blueprint.names.partitions):
            for asset in ("embedding_tasks", "segment_embeddings"):
                command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "embed_pipeline.definitions"]
                subprocess.run(
                    [*command, "--select", asset, "--partition", key], env=environment, check=True, capture_output=True
                )
        wall = time.perf_counter() - begin
        require_embedded(blueprint, files)
    print(f"\none run for each partition and asset: {wall / files:.1f} s a file ({files} files)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, action="append", help="media files; may be repeated (300)")
    parser.add_argument("--per-run", type=int, default=100, help="media files in a run (100)")
    parser.add_argument("--one-by-one", type=int, default=0, help="files to run one by one for comparison (none)")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL instead of SQLite")
    parser.add_argument("--profile", type=Path, help="where to write the profile of the pipeline's runs")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    profiler = cProfile.Profile() if arguments.profile else None
    for files in arguments.files or [300]:
        with tempfile.TemporaryDirectory() as folder:
            measure(files, arguments.per_run, Path(folder) / "work", postgres=arguments.postgres, profiler=profiler)
    if profiler is not None:
        profiler.dump_stats(arguments.profile)
    if arguments.one_by_one:
        with tempfile.TemporaryDirectory() as folder:
            measure_one_by_one(arguments.one_by_one, Path(folder) / "work")


if __name__ == "__main__":
    main()

"""Runs that submit take short turns: whatever their order and wherever one dies, no content is paid for twice."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline.client import EmbedClient
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.orchestration import left_behind, submission
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.observations import media_observation
from embed_pipeline.orchestration.submission import Submission
from embed_pipeline.orchestration.submission_events import SubmissionEvents
from embed_pipeline.orchestration.submission_report import SubmissionReport
from embed_pipeline_tests.world import World

Turn = Callable[[], AbstractContextManager[None]]
Event = dg.AssetMaterialization | dg.AssetObservation


class ProcessKilled(BaseException):
    """What a run sees when its process is killed: nothing more happens, and nobody is told."""


def started_run(world: World) -> str:
    run = dg.DagsterRun(job_name="any", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED)
    world.instance.add_run(run)
    return run.run_id


def submit(
    world: World,
    client: EmbedClient,
    keys: Sequence[str],
    *,
    run_id: str | None = None,
    turn: Turn = nullcontext,
    log_event: Callable[[Event], None] | None = None,
    concurrency: int = 1,
) -> SubmissionReport:
    """Submit as a run does, with turns and events in the test's hands."""
    blueprint, run_id = world.blueprint, run_id or started_run(world)
    resource = blueprint.client
    return Submission(
        names=blueprint.names,
        ledger=world.ledger,
        instance=world.instance,
        turn=turn,
        library=blueprint.library.library(),
        dataset=blueprint.store.dataset(),
        client=client,
        settings=blueprint.settings,
        policy=blueprint.policy,
        platform=resource.platform,
        delivery=resource.delivery,
        run_id=run_id,
        root_run_id=run_id,
        code_version=blueprint.task_code_version,
        terms=blueprint.terms,
        log_event=log_event or world.instance.report_runless_asset_event,
        log=lambda _: None,
        concurrency=concurrency,
    ).run(keys)


def end(world: World, run_id: str) -> None:
    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    world.instance.report_run_failed(run)


class Baton:
    """Lets runs that go on at the same time take their turns in a given order; then whoever comes first."""

    def __init__(self, runners: int, order: Sequence[int]) -> None:
        self._order, self._running = list(order), set(range(runners))
        self._changed, self._busy = threading.Condition(), False

    @contextmanager
    def turn(self, runner: int) -> Iterator[None]:
        with self._changed:
            assert self._changed.wait_for(lambda: not self._busy and self._is_next(runner), timeout=60)
            self._busy = True
            if self._order:
                self._order.pop(0)
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def leave(self, runner: int) -> None:
        with self._changed:
            self._running.discard(runner)
            self._changed.notify_all()

    def _is_next(self, runner: int) -> bool:
        while self._order and self._order[0] not in self._running:
            self._order.pop(0)
        return not self._order or self._order[0] == runner


_WORLDS = count()
_CONTENTS = (1, 2, 1, 3, 2)
"""Five files of three contents."""


@pytest.fixture
def instance(stored_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """These runs go on at the same time, as threads."""
    return stored_instance


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    delivery=st.sampled_from(["auto", "upload"]),
    order=st.lists(st.integers(0, 1), max_size=8),
    deaths=st.tuples(*[st.none() | st.integers(0, 3)] * 2),
    asked=st.tuples(*[st.permutations(range(5)).map(lambda keys: keys[:4])] * 2),
)
def test_no_content_is_paid_for_twice_whoever_goes_first_and_whoever_dies(
    emulator: Emulator,
    tmp_path: Path,
    delivery: str,
    order: list[int],
    deaths: tuple[int | None, ...],
    asked: tuple[list[int], ...],
) -> None:
    before = emulator.platform.journal.summary()["tasks_created"]
    number = next(_WORLDS)
    with dg.instance_for_test() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setattr(left_behind, "_LATE_ANSWER_SEC", 0.0)
        patch.setattr(submission, "_TURN_SEC", 0.002)  # one request a turn
        world = World(tmp_path / "media" / f"world-{number}", instance, emulator, client={"delivery": delivery})
        names = [f"{number}-{name}.wav" for name in "abcde"]
        for name, content in zip(names, _CONTENTS, strict=True):
            world.add(name, first_seed=10 * number + content)
        baton, runs = Baton(2, order), [started_run(world) for _ in range(2)]
        problems: list[BaseException] = []

        def run(me: int) -> None:
            events = count()

            def log_event(event: Event) -> None:
                if isinstance(event, dg.AssetMaterialization) and next(events) == deaths[me]:
                    raise ProcessKilled
                instance.report_runless_asset_event(event)

            try:
                with world.blueprint.client.client() as client:
                    submit(
                        world,
                        client,
                        [names[index] for index in asked[me]],
                        run_id=runs[me],
                        turn=lambda: baton.turn(me),
                        log_event=log_event,
                    )
            except ProcessKilled:
                end(world, runs[me])
            except BaseException as error:
                problems.append(error)
            finally:
                baton.leave(me)

        threads = [threading.Thread(target=run, args=(me,)) for me in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not problems
        with world.blueprint.client.client() as client:
            report = submit(world, client, names)

        assert set(report.tasks) == set(names)
        assert not report.failed
        paid = emulator.platform.journal.summary()["tasks_created"] - before
        assert paid == len(set(_CONTENTS))


def only_once(before: Callable[[], object]) -> Turn:
    """A turn before whose first something happens: what another run, or a person, does meanwhile."""
    waiting = [before]

    @contextmanager
    def turn() -> Iterator[None]:
        if waiting:
            waiting.pop()()
        yield

    return turn


def test_an_upload_that_another_run_made_needless_is_deleted(
    tmp_path: Path, media: Path, instance: dg.DagsterInstance
) -> None:
    with Emulator(EmulatorSettings(engine="instant", workers=1)) as emulator:
        world = World(tmp_path, instance, emulator, client={"delivery": "upload"})
        world.add("one.wav", "two.wav")
        with world.blueprint.client.client() as client:
            report = submit(
                world, client, ["one.wav", "two.wav"], turn=only_once(lambda: submit(world, client, ["one.wav"]))
            )
            left = {asset.id for asset in client.assets.list()}

        assert {key: task.how for key, task in report.tasks.items()} == {"one.wav": "re-attached", "two.wav": "created"}
        assert len(left) == 2, "one for each task"


def test_a_file_that_changes_before_its_turn_is_left_for_later(world: World) -> None:
    world.add("one.wav", "two.wav")
    file = world.blueprint.library.library().file("one.wav")

    def change() -> None:
        world.instance.report_runless_asset_event(media_observation(world.blueprint.names, file, "f" * 32))

    with world.blueprint.client.client() as client:
        report = submit(world, client, ["one.wav", "two.wav"], turn=only_once(change))

    assert "changed while it waited" in report.held["one.wav"]
    assert world.created() == {"two.wav": 1}


def test_a_limit_is_waited_for_outside_the_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world.varied(submit_automatically=False)
    names = [f"{number}.wav" for number in range(4)]
    world.add(*names)
    world.discover()
    world.faults({"kind": "status", "on": "create", "status": 429, "retry_after": 2, "count": 1})
    waits: list[float] = []

    class Clock:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            info = world.instance.event_log_storage.get_concurrency_info(world.blueprint.names.submission_lock)
            assert not info.claimed_slots, "nobody is kept from a turn meanwhile"
            waits.append(seconds)
            time.sleep(seconds)

    monkeypatch.setattr(submission, "time", Clock)

    assert world.submit(names[0], names[-1]).success

    assert world.created() == dict.fromkeys(names, 1)
    assert 1 < sum(waits) < 10


def test_a_limit_of_hours_leaves_the_rest_for_later_and_keeps_what_was_done(world: World) -> None:
    world = World(world.root, world.instance, world.emulator, client={"concurrency": 1})
    world.add("a.wav", "b.wav", "c.wav")
    world.add("twin of c.wav", first_seed=7)
    world.add("c.wav", first_seed=7)
    world.faults({"kind": "status", "on": "create", "status": 429, "retry_after": 7200, "skip": 1})

    with world.blueprint.client.client() as client:
        report = submit(world, client, ["a.wav", "b.wav", "c.wav", "twin of c.wav"])

    assert set(report.tasks) == {"a.wav"}
    assert set(report.held) == {"b.wav", "c.wav", "twin of c.wav"}
    assert all(reason.endswith("UTC") for reason in report.held.values())
    assert not report.failed
    assert report.stopped is None


def test_what_the_dataset_has_is_read_and_told_outside_the_turn(world: World) -> None:
    world.add("a.wav", "b.wav")
    world.settle()
    names = world.blueprint.names
    world.instance.wipe_assets([names.embedding_tasks, names.segment_embeddings])
    in_turn, told = False, []

    @contextmanager
    def turn() -> Iterator[None]:
        nonlocal in_turn
        in_turn = True
        yield
        in_turn = False

    def log_event(event: Event) -> None:
        told.append((event.asset_key, event.partition, in_turn))
        world.instance.report_runless_asset_event(event)

    with world.blueprint.client.client() as client:
        submit(world, client, ["a.wav", "b.wav"], turn=turn, log_event=log_event)

    assert told == [
        *((names.embedding_tasks, key, True) for key in ("a.wav", "b.wav")),
        *((names.segment_embeddings, key, False) for key in ("a.wav", "b.wav")),
    ]
    assert set(world.states().values()) == {"embedded"}
    assert world.created() == {"a.wav": 1, "b.wav": 1}


def test_a_task_in_doubt_is_looked_for_by_its_content_and_not_for_every_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world.varied(partitions_per_run=3)
    world.add("a.wav", "b.wav", "c.wav", "d.wav")
    world.add("a.wav", first_seed=7)
    world.add("twin.wav", first_seed=7)
    world.faults(
        {"kind": "drop", "on": "create", "when": "after", "count": 1},
        {"kind": "status", "on": "list", "status": 403, "count": 1},
        {"kind": "latency", "on": "create", "seconds": 0.2},
    )
    monkeypatch.setattr(submission, "_TURN_SEC", 0.1)
    run_id = started_run(world)

    def asked() -> int:
        return len(world.emulator.platform.journal.entries(endpoint="list", limit=1000))

    with world.blueprint.client.client() as client:
        report = submit(world, client, ["a.wav", "b.wav", "c.wav", "d.wav", "twin.wav"], run_id=run_id)

    assert set(report.failed) == {"a.wav"}
    assert report.tasks["twin.wav"].how == "adopted", "it holds the same, and comes in a later part"
    assert sum(world.created().values()) == 4
    assert asked() == 2, "by the request that was in doubt, and for the twin"
    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.tags[world.blueprint.names.submission_tag] == "open"


@pytest.mark.parametrize("submitting", [False, True])
def test_only_what_went_wrong_while_a_task_was_asked_for_leaves_a_submission_open(submitting: bool) -> None:
    events = SubmissionEvents(PipelineNames(), "1", "terms", lambda _: None, lambda _: None)

    events.problem("a.wav", ValueError("unforeseen"), "content", submitting=submitting)
    events.problem("b.wav", ValueError("unforeseen"), "content")

    assert set(events.report.failed) == {"a.wav", "b.wav"}
    assert events.report.settled is not submitting

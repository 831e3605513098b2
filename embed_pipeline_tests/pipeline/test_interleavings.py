"""Workers side by side, interleaved and killed at every step: no content is paid for twice, and none is forgotten."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline.ledger import Ledger
from embed_pipeline_tests.ledger.values import task_rows
from embed_pipeline_tests.pipeline.platform import OUTCOMES, vector_of
from embed_pipeline_tests.pipeline.schedule import SETTINGS, Event, Schedule, SharedWorld, collect_all, submit_all, tick

FILES = {"a.wav": "A", "b.wav": "B", "twin of a.wav": "A", "c.wav": "C"}


def check(world: SharedWorld, steps: list[str]) -> None:
    """Compare what there is with what was promised."""
    told = "\n".join(steps)
    with Ledger(world.url, clock=lambda: world.time.now) as ledger:
        rows = task_rows(ledger)
    for content in world.contents:
        paid = world.tasks_of(content)
        assert len(paid) == 1 + world.platform.failures.get(content, 0), f"{content}: {len(paid)} tasks paid\n{told}"
    assert Counter(task.id for task in world.platform.tasks) == Counter(row.task_id for row in rows), told
    used = {task.source for task in world.platform.tasks}
    assert {name for name, _ in world.platform.assets.values()} <= used, f"an upload is left\n{told}"
    assert len(world.platform.assets) == len({name for name, _ in world.platform.assets.values()}), told
    for key, content in world.library.files.items():
        segments = world.dataset.read_media(key, SETTINGS.digest("audio"))
        assert segments is not None, f"{key} has no segments\n{told}"
        assert (segments.embedding == vector_of(content)).all(), f"{key} has the vectors of another content\n{told}"


@pytest.mark.parametrize("delivery", ["url", "upload"])
def test_death_at_every_step(tmp_path: Path, make_ledger: Callable[[], str], delivery: str) -> None:
    files = {"a.wav": "A", "b.wav": "B"}
    world = SharedWorld(tmp_path, make_ledger(), files, delivery=delivery)
    whole = world.play(Schedule(), [lambda one: (submit_all(one), collect_all(one))])
    check(world, whole.steps)
    for number in range(len(whole.steps)):
        world = SharedWorld(tmp_path, make_ledger(), files, delivery=delivery)
        scheduler = world.play(
            Schedule(events=[Event(0, None, number)], fates=[0.0]), [lambda one: (submit_all(one), collect_all(one))]
        )
        check(world, scheduler.steps)


PROGRAMS = {
    "submit": submit_all,
    "submit and collect": lambda one: (submit_all(one), collect_all(one)),
    "collect": collect_all,
    "tick": tick,
    "tick and submit": lambda one: (tick(one), submit_all(one)),
}

seconds = st.sampled_from([20.0, 50.0, 100.0, 180.0, 400.0])
events = st.one_of(
    # Where it matters most, ...
    st.builds(
        Event,
        worker=st.integers(0, 3),
        kind=st.sampled_from(["leave", "create", "created", "list", "listed", "upload", "uploaded"]),
        nth=st.integers(0, 2),
        freeze_sec=st.none() | seconds,
    ),
    # ... and anywhere.
    st.builds(Event, worker=st.integers(0, 3), kind=st.none(), nth=st.integers(0, 60), freeze_sec=st.none() | seconds),
)
schedules = st.builds(
    Schedule,
    seed=st.none() | st.integers(0, 2**32),
    step_sec=st.sampled_from([0.0, 0.3, 2.0]),
    events=st.lists(events, max_size=6),
    fates=st.lists(st.sampled_from([None, 0.0, 10.0, 60.0, 140.0]), min_size=4, max_size=4),
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=6),
    delays=st.lists(st.sampled_from([0.0, 10.0, 60.0, 140.0]), min_size=6, max_size=6),
)
worlds = st.fixed_dictionaries(
    {
        "delivery": st.sampled_from(["url", "upload"]),
        "skew_sec": st.sampled_from([0.0, 10_800.0, -10_800.0]),
        "lag_sec": st.sampled_from([0.0, 5.0]),
        "failures": st.sampled_from([{}, {"A": 1}, {"B": 2}]),
    }
)
programs = st.lists(st.sampled_from(sorted(PROGRAMS)), min_size=1, max_size=4)


@given(schedule=schedules, options=worlds, names=programs)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_schedule_pays_twice_or_forgets_anything(
    tmp_path: Path, make_ledger: Callable[[], str], schedule: Schedule, options: dict[str, Any], names: list[str]
) -> None:
    world = SharedWorld(tmp_path, make_ledger(), FILES, **options)
    scheduler = world.play(schedule, [PROGRAMS[name] for name in names])
    check(world, scheduler.steps)


@pytest.fixture
def make_ledger(sqlite_template: Path, tmp_path: Path) -> Callable[[], str]:
    """Makes empty ledgers."""
    numbers = iter(range(10**9))

    def make() -> str:
        path = tmp_path / f"ledger-{next(numbers)}.db"
        shutil.copy(sqlite_template, path)
        return f"sqlite:///{path}"

    return make

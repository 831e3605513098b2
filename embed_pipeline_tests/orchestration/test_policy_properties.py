"""Properties of the pure policy: ranges cover exactly, and in whatever order things happen, nothing is paid twice."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embed_pipeline.orchestration.discovery_plan import plan_discovery
from embed_pipeline.orchestration.due import due_for_submission
from embed_pipeline.orchestration.open_submissions import Window, merged
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.ranges import EndedRun, contiguous_ranges, held_back, keys_of_run
from embed_pipeline.orchestration.readiness import pending_tasks
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.states import MediaState, state_of
from embed_pipeline.orchestration.submission_plan import Action, Candidate, Decision, Known, backoff, plan_submissions
from embed_pipeline.orchestration.versions import Outcome, OutcomeState, content_of, gone_version, is_gone, task_version

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_KEYS = [f"{letter}.wav" for letter in "abcdef"]
_CONTENTS = [f"content{number}" for number in range(4)]


@given(st.integers(0, 60), st.data(), st.integers(1, 9))
def test_ranges_cover_exactly_what_is_wanted_and_are_as_few_as_can_be(
    size: int, data: st.DataObject, most: int
) -> None:
    order = [f"k{number}" for number in range(size)]
    wanted = data.draw(st.sets(st.sampled_from(order))) if order else set()

    ranges = contiguous_ranges(wanted | {"unknown"}, order, most)

    covered = [key for some in ranges for key in some.keys]
    assert covered == [key for key in order if key in wanted]
    position = {key: index for index, key in enumerate(order)}
    for some in ranges:
        assert 1 <= len(some.keys) <= most
        assert list(keys_of_run(some.tags, position, order)) == list(some.keys), "the run's tags mean the same keys"
    stretches = "".join("x" if key in wanted else " " for key in order).split()
    assert len(ranges) == sum(-(-len(stretch) // most) for stretch in stretches)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 100)), max_size=12))
def test_merged_windows_cover_the_same_time_once(spans: list[tuple[int, int]]) -> None:
    windows = [
        Window(_BEGIN + timedelta(seconds=start), _BEGIN + timedelta(seconds=start + length)) for start, length in spans
    ]

    result = merged(windows)

    assert all(before.end < after.start for before, after in itertools.pairwise(result))
    for window in windows:
        assert any(whole.start <= window.start and window.end <= whole.end for whole in result)
    assert sum((whole.end - whole.start for whole in result), timedelta()) <= sum(
        (window.end - window.start for window in windows), timedelta()
    )


@given(st.integers(1, 100), st.floats(0, 3600))
def test_backoff_grows_and_is_bounded(attempt: int, first: float) -> None:
    assert backoff(attempt, first) <= backoff(attempt + 1, first) <= timedelta(hours=6)


@given(st.lists(st.integers(0, 7000), max_size=8), st.integers(0, 9000), st.integers(0, 7000))
def test_failed_runs_hold_keys_back_for_a_bounded_time(ends: list[int], now: int, since: int) -> None:
    failed = [EndedRun(("a",), _BEGIN + timedelta(seconds=end)) for end in ends if end <= now]
    at = _BEGIN + timedelta(seconds=now)

    held = held_back(failed, 60.0, at, since={"a": _BEGIN + timedelta(seconds=since)})

    counted = [run for run in failed if run.at >= _BEGIN + timedelta(seconds=since)]
    assert held.keys() <= {"a"}
    if "a" in held:
        assert counted
        assert held["a"] <= max(run.at for run in counted) + timedelta(hours=1)


@given(
    st.sets(st.sampled_from(_KEYS)),
    st.sets(st.sampled_from(_KEYS)),
    st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_CONTENTS)),
    st.integers(1, 3),
    st.sampled_from(["keep", "retire"]),
    st.sets(st.sampled_from(_KEYS)),
)
def test_discovery_comes_to_rest_and_then_knows_the_library(
    present: set[str],
    partitions: set[str],
    told: dict[str, str],
    limit: int,
    when_vanished: str,
    unserved: set[str],
) -> None:
    library = {key: f"content of {key}" for key in sorted(present)}
    known, versions = sorted(partitions), dict(told)
    for _ in range(40):
        plan = plan_discovery(
            list(library), library, known, versions, limit=limit, when_vanished=when_vanished, unserved=unserved
        )
        if not (plan.add or plan.observe or plan.retire):
            break
        versions.update(plan.observe)
        known = [key for key in [*known, *plan.add] if key not in plan.retire]
        assert len(known) == len(set(known))
    else:
        raise AssertionError("discovery goes on for ever")
    assert set(known) == present | (partitions - unserved if when_vanished == "keep" else set())
    for key in known:
        assert versions[key] == library[key] if key in library else is_gone(versions[key])


@given(
    st.sets(st.sampled_from(_KEYS), min_size=1),
    st.data(),
    st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_CONTENTS).map(gone_version)),
    st.sets(st.sampled_from(_KEYS)),
    st.integers(1, 3),
)
def test_nothing_is_retired_before_everything_was_read_and_only_so_many_at_once(
    present: set[str], data: st.DataObject, told: dict[str, str], settling: set[str], limit: int
) -> None:
    library = {key: f"content of {key}" for key in sorted(present)}
    read = data.draw(st.sets(st.sampled_from(sorted(present))))

    plan = plan_discovery(
        list(library),
        {key: library[key] for key in read},
        list(told),
        told,
        unsure=settling - present,
        limit=limit,
        when_vanished="retire",
    )

    if read != present or settling - present:
        assert not plan.retire
        assert plan.withheld == len(told.keys() - present - settling)
    assert len(plan.observe) + len(plan.retire) <= limit


@dataclass
class Task:
    """A task on the platform."""

    content: str
    end: str = "processing"


class Pipeline(RuleBasedStateMachine):
    """The policy over a ledger of plain values, with files that change and tasks that fail as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = PipelinePolicy(max_attempts=2, retry_backoff_sec=60.0, when_a_file_vanishes="keep")
        self.now = _BEGIN
        self.files: dict[str, str] = {}
        self.partitions: list[str] = []
        self.media: dict[str, str] = {}
        self.media_ids: dict[str, int] = {}
        self.records: list[TaskRecord] = []
        self.outcomes: dict[str, tuple[Outcome, datetime]] = {}
        self.outcome_of: dict[str, Outcome] = {}
        self.embedded: dict[str, str] = {}
        self.dataset: dict[str, str] = {}
        self.platform: dict[str, Task] = {}
        self.excused: Counter[str] = Counter()
        self.event = 0

    def next_id(self) -> int:
        self.event += 1
        return self.event

    @initialize(contents=st.lists(st.sampled_from(_CONTENTS), min_size=2, max_size=6))
    def fill(self, contents: list[str]) -> None:
        self.files = dict(zip(_KEYS, contents, strict=False))

    @rule(key=st.sampled_from(_KEYS), content=st.sampled_from(_CONTENTS))
    def write(self, key: str, content: str) -> None:
        self.files[key] = content

    @rule(key=st.sampled_from(_KEYS))
    def remove(self, key: str) -> None:
        self.files.pop(key, None)

    @rule(old=st.sampled_from(_KEYS), new=st.sampled_from(_KEYS))
    def rename(self, old: str, new: str) -> None:
        if old in self.files:
            self.files[new] = self.files.pop(old)

    @rule(seconds=st.sampled_from([1, 61, 3600]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def discover(self) -> None:
        plan = plan_discovery(
            sorted(self.files), self.files, self.partitions, self.media, limit=3, when_vanished="keep"
        )
        self.partitions += plan.add
        for key, version in plan.observe.items():
            self.media[key], self.media_ids[key] = version, self.next_id()

    @rule(data=st.data())
    def submit_some(self, data: st.DataObject) -> None:
        """A run over any partitions, which may die after any of its events."""
        if self.partitions:
            keys = data.draw(st.lists(st.sampled_from(self.partitions), unique=True))
            self.submit([key for key in self.partitions if key in keys], dies_after=data.draw(st.integers(0, 8)))

    @rule(dies_after=st.integers(0, 8))
    def submit_what_is_due(self, dies_after: int) -> None:
        self.submit(self.due(), dies_after=dies_after)

    @rule(data=st.data())
    def retry_by_hand(self, data: st.DataObject) -> None:
        if self.partitions:
            key = data.draw(st.sampled_from(self.partitions))
            troubled = self.state(key) in {MediaState.FAILED, MediaState.EXPIRED}
            if troubled and key in self.files:
                self.excused[self.files[key]] += 1
                self.submit([key], retry_failed=True)

    @rule(data=st.data(), end=st.sampled_from(["ready", "ready", "failed", "passing", "expired"]))
    def a_task_ends(self, data: st.DataObject, end: str) -> None:
        open_tasks = [task for task in self.platform.values() if task.end == "processing"]
        if open_tasks:
            data.draw(st.sampled_from(open_tasks)).end = end

    @rule()
    def collect(self) -> None:
        latest = self.latest()
        tasks = {key: record.version for key, record in latest.items()}
        for key in pending_tasks(tasks, self.embedded, self.outcome_of):
            record = latest[key]
            task = self.platform[record.task_id]
            if task.end == "ready":
                self.embedded[key], self.dataset[key] = record.version, task.content
            elif task.end != "processing":
                outcome = Outcome(OutcomeState(task.end), record.attempt, record.version)
                self.outcomes[record.version] = (outcome, self.now)
                self.outcome_of[key] = outcome

    def latest(self) -> dict[str, TaskRecord]:
        return {record.media: record for record in self.records}

    def due(self) -> list[str]:
        latest = self.latest()
        return due_for_submission(
            self.partitions,
            self.media,
            self.media_ids,
            {key: record.storage_id or 0 for key, record in latest.items()},
            {key: record.version for key, record in latest.items()},
            self.outcome_of,
            max_attempts=self.policy.max_attempts,
        )

    def state(self, key: str) -> MediaState:
        record = self.latest().get(key)
        return state_of(
            media=self.media.get(key),
            task=record.version if record else None,
            embedded=self.embedded.get(key),
            outcome=self.outcome_of.get(key),
            changed_since_task=self.media_ids.get(key, 0) > (record.storage_id or 0 if record else 0),
        )

    def submit(self, keys: list[str], *, retry_failed: bool = False, dies_after: int = 99) -> None:
        candidates = []
        for key in keys:
            if key in self.files:
                if self.media.get(key) != self.files[key]:
                    self.media[key], self.media_ids[key] = self.files[key], self.next_id()
                candidates.append(Candidate(key, self.files[key], "digest", 1.0))
        decisions = plan_submissions(
            candidates,
            Known(
                list(reversed(self.records)),
                self.outcomes,
                frozenset(self.embedded.values()),
                "emulator",
                f"run{self.event}",
            ),
            self.policy,
            now=self.now,
            retry_failed=retry_failed,
        )
        assert [decision.candidate for decision in decisions] == candidates, "every file is decided on, once"
        made: dict[str, TaskRecord] = {}
        for decision in decisions[:dies_after]:
            self.carry_out(decision, made)

    def carry_out(self, decision: Decision, made: dict[str, TaskRecord]) -> None:
        key, content = decision.candidate.key, decision.candidate.fingerprint
        match decision.action:
            case Action.SUBMIT:
                task_id = f"task{len(self.platform)}"
                self.platform[task_id] = Task(content)
                record = TaskRecord(
                    media=key,
                    task_id=task_id,
                    fingerprint=content,
                    settings_digest="digest",
                    platform="emulator",
                    submitted_at=self.now + timedelta(milliseconds=len(self.platform)),
                    attempt=decision.attempt,
                    minutes=1.0,
                    how="created",
                    root_run_id=f"run{self.event}",
                    media_uri=key,
                    storage_id=self.next_id(),
                )
                made[key] = record
                self.records.append(record)
            case Action.REATTACH:
                assert decision.task is not None
                assert decision.task.fingerprint == content, "a task serves only what it was made from"
                again = replace(decision.task, media=key, how="re-attached", storage_id=self.next_id())
                self.records.append(again)
            case Action.FOLLOW:
                assert decision.follows in made
                again = replace(made[str(decision.follows)], media=key, how="re-attached", storage_id=self.next_id())
                self.records.append(again)
            case Action.HOLD | Action.REFUSE:
                pass

    @invariant()
    def no_content_has_two_tasks_that_may_give_a_result(self) -> None:
        live = Counter(task.content for task in self.platform.values() if task.end in {"processing", "ready"})
        assert all(count == 1 for count in live.values()), live

    @invariant()
    def attempts_are_bounded(self) -> None:
        made = Counter(task.content for task in self.platform.values())
        for content, count in made.items():
            expired = sum(task.content == content and task.end == "expired" for task in self.platform.values())
            assert count <= self.policy.max_attempts * (1 + self.excused[content]) + expired

    @invariant()
    def what_is_embedded_is_the_content_that_was_told(self) -> None:
        for key in self.partitions:
            if self.state(key) is MediaState.EMBEDDED:
                assert self.dataset[key] == content_of(self.media[key])

    def teardown(self) -> None:
        """Left to itself, the pipeline brings every file to an end."""
        for _ in range(60):
            self.discover()
            self.now += timedelta(hours=7)
            self.submit(self.due())
            for task in self.platform.values():
                if task.end == "processing":
                    task.end = "ready"
            self.collect()
        assert not self.due()
        assert set(self.files) <= set(self.partitions)
        for key in self.partitions:
            wanted = {MediaState.EMBEDDED, MediaState.FAILED, MediaState.EXPIRED}
            assert self.state(key) in (wanted if key in self.files else {MediaState.GONE}), (key, self.state(key))


Pipeline.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWhateverHappensInWhateverOrder = Pipeline.TestCase


@given(st.sampled_from(list(OutcomeState)), st.integers(1, 99), st.text("abc-_0123456789", min_size=1, max_size=40))
def test_an_outcome_is_read_back_from_its_version(state: OutcomeState, attempt: int, subject: str) -> None:
    outcome = Outcome(state, attempt, subject)
    assert Outcome.parse(str(outcome)) == outcome


@given(st.text(min_size=1))
def test_a_task_version_fits_into_a_tag_and_tells_tasks_apart(task_id: str) -> None:
    version = task_version(task_id)
    assert len(version) <= 40
    assert re.fullmatch("[A-Za-z0-9_-]+", version)
    assert (version == task_id) == (task_version(version) == version and version == task_id)


@given(st.one_of(st.none(), st.sampled_from(_CONTENTS)))
def test_a_file_that_is_gone_still_tells_its_content(told: str | None) -> None:
    assert is_gone(gone_version(told))
    if told is not None:
        assert content_of(gone_version(told)) == told
        assert not is_gone(told)

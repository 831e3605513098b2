"""The rules of states and steps in SQL, held against the same rules in Python, for every row that there can be."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa

from embed_pipeline.ledger import Ledger, MediaState, Step, Target, TaskState
from embed_pipeline.ledger.states import ENDED, SERVING
from embed_pipeline.ledger.tables import media, task
from embed_pipeline_tests.ledger.values import TARGET

NOW = 1_700_000_000.0


@dataclass(frozen=True)
class Case:
    """A media file and the latest task of its content.

    Args:
        state: The task's state; None for no task.
        sent: Whether its request was sent.
        lapsed: Whether its claim has lapsed.
        tries: Its number since a person last asked.
        retry_in: Seconds until another attempt may follow; None for at once.
        config: What it was asked for under.
        gone: Whether the file is gone.
        attached: The task that the file is attached to: `own`, `other` or None.
        embedded: What the dataset holds: `current`, None, or what is different about it.
    """

    state: TaskState | None
    sent: bool
    lapsed: bool
    tries: int
    retry_in: float | None
    config: str
    gone: bool
    attached: str | None
    embedded: str | None

    @property
    def is_embedded(self) -> bool:
        return self.embedded == "current" and self.attached == "own"

    def step_of_task(self, target: Target) -> Step:
        if self.state is None:
            return Step.SUBMIT
        if self.state is TaskState.CLAIMED:
            if not self.lapsed:
                return Step.WAIT
            return Step.RECOVER if self.sent else Step.SUBMIT
        if self.state is TaskState.PROCESSING:
            return Step.WAIT
        if self.state in SERVING:
            return Step.COLLECT
        if self.state is TaskState.REFUSED and self.config != target.config_digest:
            return Step.SUBMIT
        if self.state in {TaskState.RETRYABLE, TaskState.EXPIRED} and self.tries < target.max_attempts:
            return Step.SUBMIT if self.retry_in is None or self.retry_in <= 0 else Step.BACK_OFF
        return Step.GIVE_UP

    def step(self, target: Target) -> Step:
        return Step.NONE if self.gone or self.is_embedded else self.step_of_task(target)

    def media_state(self, target: Target) -> MediaState:
        if self.gone:
            return MediaState.GONE
        if self.is_embedded:
            return MediaState.EMBEDDED
        if self.state in SERVING:
            return MediaState.PROCESSING
        if self.state is TaskState.EXPIRED:
            return MediaState.EXPIRED
        if self.state in ENDED and not (self.state is TaskState.REFUSED and self.config != target.config_digest):
            return MediaState.FAILED
        return MediaState.UNSUBMITTED

    def is_due(self, target: Target) -> bool:
        if self.gone or self.is_embedded:
            return False
        unattached = self.state in SERVING and self.attached != "own"
        return self.step(target) in {Step.SUBMIT, Step.RECOVER} or unattached

    def media_values(self, number: int) -> dict[str, Any]:
        fingerprint, task_id = f"f{number}", f"t{number}"
        values: dict[str, Any] = {
            "pipeline": "", "key": f"{number:05}", "uri": "", "media_type": "video", "fingerprint": fingerprint,
            "changed_at": NOW, "updated_at": NOW, "gone_at": NOW if self.gone else None,
            "task_id": {"own": task_id, "other": "t-other", None: None}[self.attached],
            "embedded_fingerprint": None, "embedded_digest": None, "embedded_platform": None, "embedded_task_id": None,
        }  # fmt: skip
        if self.embedded is not None:
            values |= {
                "embedded_fingerprint": "f-other" if self.embedded == "fingerprint" else fingerprint,
                "embedded_digest": "d-other" if self.embedded == "digest" else TARGET.video_digest,
                "embedded_platform": "emulator" if self.embedded == "platform" else TARGET.platform,
                "embedded_task_id": "t-third" if self.embedded == "task" else task_id,
            }
        return values

    def task_values(self, number: int) -> dict[str, Any] | None:
        if self.state is None:
            return None
        return {
            "fingerprint": f"f{number}", "settings_digest": TARGET.video_digest, "platform": TARGET.platform,
            "attempt": 1, "is_latest": True, "tries": self.tries, "state": self.state, "pipeline": "",
            "key": f"{number:05}", "run_id": "r", "owner": "p", "fence": 1, "claimed_at": NOW,
            "lease_until": NOW if self.lapsed else NOW + 1, "sent_at": NOW if self.sent else None,
            "media_type": "video", "settings": "{}", "config_digest": self.config,
            "task_id": None if self.state in {TaskState.CLAIMED, TaskState.REFUSED} else f"t{number}",
            "created_at": NOW, "retry_at": None if self.retry_in is None else NOW + self.retry_in,
        }  # fmt: skip


def all_cases() -> list[Case]:
    """Return every combination, without those that differ in what their state does not have."""
    cases = set()
    for state, sent, lapsed, tries, retry_in, config, gone, attached, embedded in itertools.product(
        [None, *TaskState],
        [False, True],
        [False, True],
        [2, 3],
        [None, 0.0, 1.0],
        ["config-1", "config-2"],
        [False, True],
        [None, "own", "other"],
        [None, "current", "fingerprint", "digest", "platform", "task"],
    ):
        case = Case(state, sent, lapsed, tries, retry_in, config, gone, attached, embedded)
        if state is not TaskState.CLAIMED:
            case = replace(case, sent=True, lapsed=True)
        if state not in {TaskState.RETRYABLE, TaskState.EXPIRED}:
            case = replace(case, tries=2, retry_in=None)
        if state is not TaskState.REFUSED:
            case = replace(case, config="config-1")
        if gone and state not in {None, TaskState.COLLECTED}:
            continue
        cases.add(case)
    return sorted(cases, key=repr)


CASES = all_cases()


@pytest.fixture
def filled(url: str) -> Ledger:
    """A ledger with a media file for each case."""
    ledger = Ledger(url, clock=lambda: NOW)
    tasks = [values for number, case in enumerate(CASES) if (values := case.task_values(number)) is not None]
    with ledger.database.write() as (connection, _):
        connection.execute(sa.insert(media), [case.media_values(number) for number, case in enumerate(CASES)])
        connection.execute(sa.insert(task), tasks)
    yield ledger
    ledger.close()


def test_cases_cover_every_state_and_step():
    assert {case.media_state(TARGET) for case in CASES} == set(MediaState)
    assert {case.step(TARGET) for case in CASES} == set(Step)
    assert len(CASES) > 300


def test_every_question_has_the_same_answer(filled):
    rows = {row.key: row for row in filled.all_rows(TARGET)}
    states, overview = filled.states(TARGET), {row.key: row for row in filled.overview(TARGET)}
    due = {file.key: file.step for file in filled.due(TARGET, waiting=True)}
    pending = {file.key for file in filled.pending("")}
    awaited = filled.awaited_contents(TARGET)
    for number, case in enumerate(CASES):
        key = f"{number:05}"
        assert (rows[key].state, rows[key].step) == (case.media_state(TARGET), case.step(TARGET)), case
        assert states[key] is case.media_state(TARGET), case
        assert (overview[key].state, overview[key].step) == (case.media_state(TARGET), case.step(TARGET)), case
        assert due.get(key) is (case.step(TARGET) if case.is_due(TARGET) else None), case
        assert (f"f{number}" in awaited) == (not case.gone and not case.is_embedded), case
        waits = case.attached == "own" and case.embedded in {None, "task"} and case.state in SERVING
        assert (key in pending) == waits, case
    counts = filled.counts(TARGET)
    assert counts == {state: sum(case.media_state(TARGET) is state for case in CASES) for state in MediaState}


def test_steps_of_contents_follow_the_same_rules(filled):
    contents = [row.task.content for row in filled.all_rows(TARGET) if row.task is not None]
    found = filled.tasks.latest(TARGET, contents)
    steps = {one.fingerprint: step for one, (_, step) in found.items()}
    assert steps == {f"f{n}": case.step_of_task(TARGET) for n, case in enumerate(CASES) if case.state is not None}


def test_file_that_waits_for_nobody_is_due_or_pending_or_given_up(filled):
    """Nothing is forgotten: whatever is neither done nor given up is somebody's business, now or after a wait."""
    due = {file.key for file in filled.due(TARGET, waiting=True)}
    pending = {file.key for file in filled.pending("")}
    for row in filled.all_rows(TARGET):
        if row.step in {Step.NONE, Step.GIVE_UP, Step.BACK_OFF}:
            continue
        if row.task_id is not None and row.embedded_task_id == row.task_id:
            continue  # cannot be: what a task gave is of the task's own content
        live_claim = row.task is not None and row.task.state is TaskState.CLAIMED and row.step is Step.WAIT
        assert live_claim or row.key in due or row.key in pending, row


def test_other_settings_and_platforms_are_other_contents(filled):
    for other in (replace(TARGET, video_digest="video-2"), replace(TARGET, platform="api.example.org")):
        assert set(filled.states(other).values()) <= {MediaState.UNSUBMITTED, MediaState.GONE}
        assert len(filled.due(other, waiting=True)) == sum(not case.gone for case in CASES)


def test_more_attempts_make_failed_files_due(filled):
    more = replace(TARGET, max_attempts=4)
    now_due = {file.key for file in filled.due(more, waiting=True)} - {
        file.key for file in filled.due(TARGET, waiting=True)
    }
    assert now_due == {f"{n:05}" for n, case in enumerate(CASES) if case.is_due(more) and not case.is_due(TARGET)}
    assert now_due

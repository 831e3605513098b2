"""The checks: what they find, that they name the media file and what to do, and that nothing found is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.orchestration.findings import judge
from embed_pipeline.orchestration.health import expiring_results, failed_files, mixed_spaces, stuck_tasks
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings, Segmentation
from embed_pipeline.orchestration.states import MediaState
from embed_pipeline.orchestration.verdicts import problems_of, still_wrong, verdict
from embed_pipeline_tests.orchestration.segments import made_up
from embed_pipeline_tests.world import World

_VISUAL = EmbeddingSettings(video_options=("visual",), video_segmentation=Segmentation(strategy="fixed", seconds=6))
_NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def _shifted(count: int, row: int, *, start: float = 0.0, end: float = 0.0) -> dict[str, Any]:
    whole = made_up(count)
    starts, ends = whole.start_sec.copy(), whole.end_sec.copy()
    starts[row] += start
    ends[row] += end
    return {"start_sec": starts, "end_sec": ends}


def _vectors(row: int, factor: float) -> dict[str, Any]:
    vectors = made_up(6).embedding.copy()
    vectors[row] *= factor
    return {"embedding": vectors}


def test_sound_segments_have_no_findings() -> None:
    found = judge(made_up(6), _VISUAL)
    assert (found.vectors, found.offsets, found.options) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("vectors", _vectors(2, 0.0), "1 of 7 segments, first visual 12.00-18.00 s, are zero"),
        ("vectors", _vectors(2, 100.0), "norms more than 20 times off the median"),
        ("offsets", _shifted(6, 2, start=3.0), "no segment of visual from 12.00 s to 15.00 s"),
        ("offsets", _shifted(6, 2, end=3.0), "overlap from 18.00 s to 21.00 s"),
        ("offsets", {"duration_sec": 30.0}, "end after the file does, at 0:30"),
        ("offsets", {"duration_sec": 60.0}, "end at 36.00 s, long before the file does"),
        ("options", {"embedding_scope": ["clip"] * 7}, "lacks the scope asset"),
        ("options", {"embedding_option": ["audio"] * 7}, "lacks visual, though it is a video"),
    ],
)
def test_what_is_wrong_is_found_and_named(kind: str, changes: dict[str, Any], words: str) -> None:
    problem = getattr(judge(made_up(6, **changes), _VISUAL), kind)

    assert problem is not None
    assert words in problem
    assert "aterialize" in problem, "it says what to do"


def test_vectors_of_another_length_than_asked_for_are_found() -> None:
    asked = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=256, video_options=("visual",))
    assert "512 numbers where the settings ask for 256" in str(judge(made_up(6), asked).vectors)


def test_what_the_media_explains_is_no_problem() -> None:
    """A silent file has neither audio nor transcription; speech has gaps; a short tail may be left out."""
    everything = EmbeddingSettings(video_segmentation=Segmentation(strategy="fixed", seconds=6))
    silent = judge(made_up(6), everything)
    assert (silent.offsets, silent.options) == (None, None)
    assert judge(made_up(6, duration_sec=40.0), everything).offsets is None
    whole = made_up(6)
    kept = [0, 1, 4, 5, 6]
    speech = made_up(
        6,
        embedding_option=["transcription"] * 5 + ["visual"] * 7 + ["audio"] * 7,
        embedding_scope=[whole.embedding_scope[row] for row in kept] + [*whole.embedding_scope] * 2,
        **{
            name: np.concatenate([getattr(whole, name)[kept], getattr(whole, name), getattr(whole, name)])
            for name in ("start_sec", "end_sec", "embedding")
        },
    )
    assert judge(speech, everything) == judge(made_up(6), _VISUAL)


@given(
    earlier=st.dictionaries(st.sampled_from("abcdef"), st.text(min_size=1, max_size=3)),
    found=st.dictionaries(st.sampled_from("abcdef"), st.text(min_size=1, max_size=3)),
    also_checked=st.sets(st.sampled_from("abcdef")),
    existing=st.sets(st.sampled_from("abcdef")),
)
def test_a_problem_stays_until_its_file_is_checked_again_or_gone(
    earlier: dict[str, str], found: dict[str, str], also_checked: set[str], existing: set[str]
) -> None:
    checked = set(found) | also_checked
    after = still_wrong(earlier, checked=checked, found=found, existing=existing)
    for key in "abcdef":
        if key in checked:
            assert after.get(key) == found.get(key)
        else:
            assert after.get(key) == (earlier.get(key) if key in existing else None)


def test_a_checks_result_carries_its_problems() -> None:
    problems = {f"{number}.mp4": f"problem {number}. Do this." for number in range(7)}
    result = verdict("some_check", problems, checked=9, fine="", severity=dg.AssetCheckSeverity.WARN)

    assert not result.passed
    assert "0.mp4: problem 0. Do this." in str(result.description)
    assert "and 4 more" in str(result.description)
    key = dg.AssetKey("a")
    evaluation = dg.AssetCheckEvaluation(
        asset_key=key, check_name="some_check", passed=False, metadata=result.metadata or {}
    )
    assert problems_of(evaluation) == problems
    assert problems_of(None) == {}


def _task(hours_ago: float) -> TaskRecord:
    return TaskRecord(
        media="a.mp4",
        task_id="t1",
        fingerprint="f",
        settings_digest="s",
        platform="emulator",
        submitted_at=_NOW - timedelta(hours=hours_ago),
        attempt=1,
        minutes=1.0,
        how="created",
        root_run_id="r",
        media_uri="file:///a.mp4",
    )


@pytest.mark.parametrize(("hours", "stuck"), [(5.9, False), (6.1, True)])
def test_a_task_is_stuck_after_the_time_that_the_policy_allows(hours: float, stuck: bool) -> None:
    problems = stuck_tasks({"a.mp4": _task(hours)}, after_sec=6 * 3600, now=_NOW)
    assert bool(problems) == stuck
    if stuck:
        assert "task t1 has been processing for 6 hours" in problems["a.mp4"]


@pytest.mark.parametrize(("days", "words"), [(4.9, None), (5.5, "expires in 36 hours"), (7.5, "may have expired")])
def test_a_result_that_waits_too_long_is_an_alarm(days: float, words: str | None) -> None:
    problems = expiring_results({"a.mp4": _task(days * 24)}, lifetime_sec=7 * 86400, alarm_sec=2 * 86400, now=_NOW)
    assert problems.keys() == ({"a.mp4"} if words else set())
    assert words is None or words in problems["a.mp4"]


def test_failed_files_are_told_in_the_platforms_words() -> None:
    states = {"a.mp4": MediaState.FAILED, "b.mp4": MediaState.EMBEDDED, "c.mp4": MediaState.EXPIRED}
    problems = failed_files(states, {"a.mp4": "The video has no frames"})
    assert problems["a.mp4"].startswith("failed: The video has no frames. To try again")
    assert problems.keys() == {"a.mp4", "c.mp4"}


def test_one_space_is_fine_and_two_are_named() -> None:
    assert mixed_spaces({}) is None
    assert mixed_spaces({"marengo3.0-512": 7}) is None
    assert "marengo3.0-512 (7 media files), signal-2-512 (1 media files)" in str(
        mixed_spaces({"signal-2-512": 1, "marengo3.0-512": 7})
    )


def test_the_checks_of_a_run_are_in_the_event_log_and_outlive_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of other files must not hide what is wrong with one."""
    from embed_pipeline.orchestration import results

    real = results.judge
    monkeypatch.setattr(results, "judge", lambda segments, settings: real(made_up(6, **_vectors(1, 0.0)), _VISUAL))
    world.add("bad.wav")
    world.step()
    monkeypatch.undo()
    world.add("good.wav")
    world.step()
    key = dg.AssetCheckKey(world.blueprint.names.segment_embeddings, "vectors_sound")

    latest = world.ledger.latest_evaluation(key)

    assert latest is not None
    assert not latest.passed
    assert latest.severity is dg.AssetCheckSeverity.ERROR
    assert problems_of(latest).keys() == {"bad.wav"}
    offsets = world.ledger.latest_evaluation(dg.AssetCheckKey(key.asset_key, "offsets_sound"))
    assert offsets is not None
    assert offsets.passed
    world.submit("bad.wav", force=True)
    world.collect()
    latest = world.ledger.latest_evaluation(key)
    assert latest is not None
    assert latest.passed, "embedded anew, it is found sound"


def test_what_a_run_found_before_it_died_is_told_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from embed_pipeline.orchestration import assets, results

    real = results.judge
    world.add("bad.wav")
    world.discover()
    monkeypatch.setattr(results, "judge", lambda segments, settings: real(made_up(6, **_vectors(1, 0.0)), _VISUAL))
    # It dies with its events told and its checks not.
    monkeypatch.setattr(assets, "segment_check_results", lambda *_: iter(()))
    world.collect()
    monkeypatch.undo()
    key = dg.AssetCheckKey(world.blueprint.names.segment_embeddings, "vectors_sound")
    assert world.ledger.latest_evaluation(key) is None
    world.add("good.wav")
    world.step()

    latest = world.ledger.latest_evaluation(key)

    assert latest is not None
    assert problems_of(latest).keys() == {"bad.wav"}

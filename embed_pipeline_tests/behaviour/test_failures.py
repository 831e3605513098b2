"""Failures that end well: each file in one state, each attempt paid for on purpose."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.orchestration.resources import EmbedClientResource, MediaLibraryResource
from embed_pipeline.pipeline import submit
from embed_pipeline_tests.world import AT_ONCE, World


def test_what_the_platform_will_not_embed_stays_failed_in_its_own_words(world: World) -> None:
    world.add("bad.wav", "good.wav")
    world.faults({"kind": "fail", "message": "invalid", "match": "bad.wav"})

    assert world.settle() == {"bad.wav": "failed", "good.wav": "embedded"}
    assert world.settle() == {"bad.wav": "failed", "good.wav": "embedded"}

    assert world.statuses()["bad.wav"].reason == "The embedding request was invalid."
    assert world.created() == {"bad.wav": 1, "good.wav": 1}
    world.faults()
    assert world.submit("bad.wav").success, "asking for it again without retry_failed pays nothing"
    assert world.created()["bad.wav"] == 1
    assert world.submit("bad.wav", "good.wav", retry_failed=True).success
    assert set(world.settle().values()) == {"embedded"}
    assert world.created() == {"bad.wav": 2, "good.wav": 1}


def test_a_passing_failure_is_submitted_again_within_bounds(world: World) -> None:
    world.add("unlucky.wav", "hopeless.wav")
    world.faults(
        {"kind": "fail", "message": "unstable", "match": "unlucky.wav", "count": 1},
        {"kind": "fail", "message": "unstable", "match": "hopeless.wav"},
    )

    assert world.settle() == {"hopeless.wav": "failed", "unlucky.wav": "embedded"}

    assert world.created() == {"unlucky.wav": 2, "hopeless.wav": AT_ONCE.max_attempts}
    assert "temporarily unstable" in world.statuses()["hopeless.wav"].reason
    world.faults()
    assert world.submit("hopeless.wav", retry_failed=True).success
    assert set(world.settle().values()) == {"embedded"}
    assert world.created()["hopeless.wav"] == AT_ONCE.max_attempts + 1


def test_trying_again_by_hand_counts_attempts_anew(world: World) -> None:
    world.add("hopeless.wav", "good.wav")
    world.faults({"kind": "fail", "message": "unstable", "match": "hopeless.wav"})
    world.settle()

    world.submit("hopeless.wav", retry_failed=True)
    assert world.settle()["hopeless.wav"] == "failed"

    assert world.created()["hopeless.wav"] == 2 * AT_ONCE.max_attempts


def test_a_passing_failure_waits_for_its_backoff(world: World) -> None:
    world = world.varied(retry_backoff_sec=3600.0)
    world.add("unlucky.wav", "good.wav")
    world.faults({"kind": "fail", "message": "unstable", "match": "unlucky.wav", "count": 1})

    assert world.settle()["unlucky.wav"] == "failed"

    assert world.submit("unlucky.wav").success, "it is left for later, which is no failure"
    assert world.created() == {"unlucky.wav": 1, "good.wav": 1}


def test_a_result_that_expired_before_it_was_fetched_is_embedded_again(world: World) -> None:
    world.add("one.wav")
    world.discover()
    world.finish_computing()
    world.emulator.platform.clock.advance(8 * 86400)

    assert world.settle() == {"one.wav": "embedded"}
    assert world.created() == {"one.wav": 2}


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop", "on": "create", "when": "after", "count": 1},
        {"kind": "status", "on": "create", "status": 502, "body": "html", "when": "after", "count": 1},
    ],
    ids=["dropped", "bad gateway"],
)
def test_a_create_without_an_answer_is_found_and_not_paid_again(world: World, fault: dict[str, object]) -> None:
    world.add("one.wav", "two.wav")
    world.faults(fault)

    assert set(world.settle().values()) == {"embedded"}
    assert world.created() == {"one.wav": 1, "two.wav": 1}


def test_a_wrong_key_is_told_once_and_marks_no_file_as_failed(
    tmp_path: Path, media: Path, instance: dg.DagsterInstance
) -> None:
    with Emulator(EmulatorSettings(engine="instant", media_root=media, api_key="right")) as emulator:
        world = World(tmp_path, instance, emulator, client={"api_key": "wrong"})
        world.add("one.wav", "two.wav", "three.wav")
        (run,) = world.discover().runs

        assert not run.success
        assert "Check EMBED_API_KEY" in world.words(run)
        assert "wrong" not in world.words(run)
        assert set(world.states().values()) == {"unsubmitted"}
        right = World(tmp_path, instance, emulator, client={"api_key": "right"})
        right.forget_requests()
        assert set(right.settle().values()) == {"embedded"}


@pytest.mark.parametrize("status", [402, 404, 409])
def test_an_error_that_is_not_about_the_files_condemns_none_and_is_told_once(world: World, status: int) -> None:
    world.add(*(f"{number:02}.wav" for number in range(40)))
    world.faults({"kind": "status", "on": "create", "status": status})
    (run,) = world.discover().runs

    assert not run.success
    assert f"The platform answered {status}" in world.words(run)
    creates = world.emulator.platform.journal.entries(endpoint="create", limit=100)
    assert len(creates) < 40, "what stands in the way of all is not asked for each"
    assert set(world.states().values()) == {"unsubmitted"}

    world.faults()
    world.forget_requests()
    assert set(world.settle().values()) == {"embedded"}


@pytest.mark.parametrize("status", [400, 422])
def test_an_error_about_a_file_is_kept_as_its_own(world: World, status: int) -> None:
    world.add("bad.wav")
    world.faults({"kind": "status", "on": "create", "status": status, "count": 1})

    assert world.settle() == {"bad.wav": "failed"}
    assert world.discover().runs == ()
    assert str(status) in world.statuses()["bad.wav"].reason


def test_a_wrong_address_condemns_no_file_and_takes_no_result_for_expired(world: World) -> None:
    world.add("one.wav")
    world.discover()
    world.finish_computing()
    world.add("two.wav")
    wrong = world.varied(client=EmbedClientResource(base_url=f"{world.emulator.base_url}/no"))

    assert not any(run.success for run in wrong.discover().runs)
    assert wrong.collect().runs == ()
    world.faults({"kind": "status", "on": "retrieve", "status": 404, "body": "html", "count": 1})
    assert not world.run(world.blueprint.names.collect_job, "one.wav").success
    assert world.states() == {"one.wav": "processing", "two.wav": "unsubmitted"}

    world.forget_requests()
    assert set(world.settle().values()) == {"embedded"}
    assert world.created() == {"one.wav": 1, "two.wav": 1}


def test_a_platform_that_is_not_there_is_told_and_loses_nothing(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.emulator.stop()
    (run,) = world.discover().runs

    assert not run.success
    assert "127.0.0.1" in world.words(run)
    assert set(world.states().values()) == {"unsubmitted"}

    with Emulator(EmulatorSettings(engine="instant", media_root=world.media)) as emulator:
        again = World(world.root, world.instance, emulator)
        again.forget_requests()
        assert set(again.settle().values()) == {"embedded"}


def test_the_ready_sensor_says_that_the_platform_cannot_be_asked(world: World) -> None:
    world.add("one.wav")
    world.discover()
    world.emulator.stop()

    tick = world.driver.collect_ready()

    assert not tick.runs
    assert tick.message is not None
    assert "1 tasks are pending, but the platform could not be asked" in tick.message


@pytest.mark.parametrize("delivery", ["upload", "base64"])
def test_files_reach_a_platform_that_cannot_read_our_disk(
    tmp_path: Path, media: Path, instance: dg.DagsterInstance, delivery: str
) -> None:
    with Emulator(EmulatorSettings(engine="instant", workers=1)) as emulator:
        world = World(tmp_path, instance, emulator, client={"delivery": delivery})
        world.add("one.wav", "two words, and a comma.wav")

        assert set(world.settle().values()) == {"embedded"}
        assert emulator.platform.journal.summary()["tasks_created"] == 2


def test_a_file_that_is_no_media_does_not_keep_others_from_their_task(world: World) -> None:
    world.add("good.wav")
    (world.media / "not media.wav").write_bytes(b"this is a text")

    assert world.settle() == {"good.wav": "embedded", "not media.wav": "failed"}

    assert "not media.wav" in world.statuses()["not media.wav"].reason
    assert world.created() == {"good.wav": 1}


def test_a_file_that_is_too_short_is_refused_before_anything_is_paid(world: World) -> None:
    world.add("good.wav")
    world.add("short.wav", seconds=2.0)

    assert world.settle() == {"good.wav": "embedded", "short.wav": "failed"}

    assert world.statuses()["short.wav"].reason.startswith("too short: 2 s"), "its name stands beside it"
    assert world.created() == {"good.wav": 1}


def test_a_file_that_cannot_be_read_for_a_while_is_not_refused_for_good(world: World) -> None:
    listed = world.root / "list.jsonl"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    listed.write_text(
        json.dumps({"url": f"http://127.0.0.1:{port}/one.wav", "path": "one.wav", "size": 5044, "version": "1"})
    )
    library = MediaLibraryResource(location=str(listed), cache=str(world.root / "listed.sqlite"))
    listing = world.varied(library=library)

    (run,) = listing.discover().runs

    assert not run.success
    assert "one.wav" in world.words(run)
    assert listing.states() == {"one.wav": "unsubmitted"}
    (again,) = listing.discover().runs
    assert not again.success, "it is tried again by itself"


def test_what_is_no_media_is_refused_once(world: World) -> None:
    (world.media / "text.wav").write_bytes(b"text, and no sound at all")

    (run,) = world.discover().runs

    assert "is not playable" in world.words(run)
    assert world.states() == {"text.wav": "failed"}
    assert world.discover().runs == ()


def test_an_unforeseen_error_of_one_file_leaves_the_others_their_task_and_is_looked_into(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = submit.url_or_data

    def delivered(file: Any, *arguments: Any) -> Any:
        if file.key == "one.wav":
            raise RuntimeError("nobody thought of this")
        return deliver(file, *arguments)

    monkeypatch.setattr(submit, "url_or_data", delivered)
    world.add("one.wav", "two.wav", "zoo.wav")

    [run] = world.discover().runs

    assert world.created() == {"two.wav": 1, "zoo.wav": 1}
    assert "one.wav: an unexpected RuntimeError: nobody thought of this" in world.words(run)
    monkeypatch.undo()
    assert set(world.settle().values()) == {"embedded"}
    assert world.created() == {"one.wav": 1, "two.wav": 1, "zoo.wav": 1}

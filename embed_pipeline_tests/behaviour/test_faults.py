"""Everything goes wrong at once, and each file still ends well and is paid for once for each reason to pay."""

from __future__ import annotations

from collections import Counter

import pytest

from embed_pipeline_tests.world import World


def test_a_platform_that_fails_in_every_way_costs_no_task_and_no_result(world: World) -> None:
    world = world.varied(partitions_per_run=100)
    plain = [f"file {number:02}.wav" for number in range(54)]  # more than a page of the list
    world.add(*plain, "bad.wav", "unlucky.wav", "expired.wav", "hopeless.wav")
    world.faults(
        {"kind": "status", "on": "create", "status": 429, "retry_after": "0", "probability": 0.15},
        {"kind": "status", "on": "create", "status": 503, "body": "html", "when": "after", "count": 2, "skip": 7},
        {"kind": "drop", "on": "create", "when": "after", "count": 2, "skip": 20},
        {"kind": "drop", "on": "create", "when": "before", "count": 1, "skip": 30},
        {"kind": "status", "on": "list", "status": 500, "count": 2, "skip": 1},
        {"kind": "shift", "on": "list", "by": 3, "probability": 0.5},
        {"kind": "duplicate", "on": "list", "items": 2, "probability": 0.5},
        {"kind": "truncate", "on": "retrieve", "fraction": 0.5, "count": 3},
        {"kind": "status", "on": "retrieve", "status": 502, "count": 3, "skip": 5},
        {"kind": "shuffle"},
        {"kind": "fail", "message": "unprocessable", "match": "bad.wav"},
        {"kind": "fail", "message": "unstable", "match": "unlucky.wav", "count": 1},
        {"kind": "fail", "message": "incomplete", "match": "hopeless.wav"},
        {"kind": "expire", "match": "expired.wav", "count": 1},
        seed=5,
    )

    world.settle(most=20)
    # A request of which nobody knows whether it was carried out is in doubt for minutes.
    world.let_pass(600.0)
    world.step()
    states = world.settle()

    assert {key for key, state in states.items() if state != "embedded"} == {"bad.wav", "hopeless.wav"}
    assert {states["bad.wav"], states["hopeless.wav"]} == {"failed"}
    assert world.created() == Counter(
        {**dict.fromkeys(plain, 1), "bad.wav": 1, "unlucky.wav": 2, "expired.wav": 2, "hopeless.wav": 3}
    )
    happened = {rule["id"]: rule["happened"] for rule in world.emulator.platform.faults.to_json()["faults"]}
    assert all(happened.values()), f"what was to go wrong did: {happened}"
    for key, row in world.statuses().items():
        if row.state.value == "embedded":
            assert world.segments(key).task_id == row.task_id


@pytest.mark.parametrize("kind", ["shuffle", "missing"])
def test_results_in_another_order_or_with_a_part_missing_are_written_as_they_are(world: World, kind: str) -> None:
    world.add("one.wav", seconds=20.0)
    world.settle()
    before = world.segments("one.wav")
    world.faults({"kind": kind, **({"option": "transcription"} if kind == "missing" else {})})

    assert world.submit("one.wav", force=True).success
    assert world.settle() == {"one.wav": "embedded"}

    after = world.segments("one.wav")
    if kind == "shuffle":
        assert (after.start_sec == before.start_sec).all()
        assert (after.embedding == before.embedding).all(), "rows are sorted, whatever the order they came in"
    else:
        assert set(after.embedding_option) == {"audio"}
        assert world.statuses()["one.wav"].segments == len(after.start_sec) > 0

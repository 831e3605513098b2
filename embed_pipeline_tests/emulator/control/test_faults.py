from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from embed_pipeline.emulator.control.behaviour import Timing
from embed_pipeline.emulator.control.faults import MESSAGES, FaultPlan, read_faults
from embed_pipeline.emulator.control.injection import Injection
from embed_pipeline.emulator.server import Emulator
from embed_pipeline.emulator.state.clock import from_rfc3339
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.testing import TEST_SETTINGS, InProcessEmulator
from embed_pipeline_tests.emulator.conftest import TASKS, Caller, video_request


def inject(emulator: Caller, *rules: dict[str, Any], seed: int = 0) -> None:
    answer = emulator.control("PUT", "/faults", {"faults": list(rules), "seed": seed})
    assert answer.status_code == 200, answer.text


def task_count(emulator: Caller) -> int:
    return len(emulator.emulator.tasks())


@pytest.mark.parametrize(("when", "tasks"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("body", ["platform", "empty", "html", "text"])
def test_a_status_comes_before_or_after_the_task_was_created(emulator, when, tasks, body):
    inject(emulator, {"kind": "status", "on": "create", "status": 503, "retry_after": 7, "when": when, "body": body})
    answer = emulator.create()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert task_count(emulator) == tasks
    if body == "platform":
        assert answer.json()["error"]["code"] == "INTERNAL_SERVER_ERROR"
    elif body == "empty":
        assert answer.content == b""


@pytest.mark.parametrize(("when", "tasks"), [("before", 0), ("after", 1)])
def test_a_connection_breaks_before_or_after_the_task_was_created(emulator, when, tasks):
    inject(emulator, {"kind": "drop", "on": "create", "when": when, "count": 1})
    with pytest.raises(httpx.ReadError):
        emulator.create()
    assert task_count(emulator) == tasks
    emulator.created()
    creates = emulator.emulator.journal("create")
    assert [entry["faults"] for entry in creates] == [["drop-1"], []]
    assert creates[0]["status"] is None or when == "after"


@pytest.mark.server
def test_faults_reach_a_client_over_a_real_socket():
    settings = replace(TEST_SETTINGS, timing=Timing())
    with Emulator(settings) as server, httpx.Client(base_url=server.base_url, headers={"x-api-key": "k"}) as http:
        task_id = http.post(TASKS, json=video_request()).json()["_id"]
        while http.get(f"{TASKS}/{task_id}").json()["status"] == "processing":
            pass
        server.platform.faults.replace(
            [
                {"kind": "drop", "on": "create", "when": "after", "count": 1},
                {"kind": "drop", "on": "list", "count": 1},
                {"kind": "truncate", "on": "retrieve", "fraction": 0.5, "count": 1},
                {"kind": "slow", "on": "list", "bytes_per_sec": 2000, "skip": 1},
            ]
        )
        with pytest.raises(httpx.TransportError):
            http.post(TASKS, json=video_request())
        with pytest.raises(httpx.TransportError):
            http.get(TASKS)
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(f"{TASKS}/{task_id}")
        # Whatever broke, the next request is served, on a fresh connection.
        slow = http.get(TASKS)
        assert slow.json()["page_info"]["total_results"] == 2
        assert slow.elapsed.total_seconds() > 0.2
        assert len(http.get(f"{TASKS}/{task_id}").json()["data"]) > 0


def test_a_body_is_cut_or_has_another_type(emulator):
    task_id = emulator.created()
    inject(emulator, {"kind": "truncate", "on": "retrieve", "fraction": 0.3, "count": 1})
    with pytest.raises(httpx.RemoteProtocolError):
        emulator.retrieve(task_id)
    inject(emulator, {"kind": "content_type", "on": "retrieve", "value": "text/plain"})
    answer = emulator.http.get(f"{TASKS}/{task_id}")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.json()["_id"] == task_id


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_task_fails_with_every_documented_message(emulator, name):
    inject(emulator, {"kind": "fail", "message": name})
    failed = emulator.finished(emulator.created())
    assert (failed["status"], failed["data"], failed["error"]) == ("failed", None, {"message": MESSAGES[name]})


def test_a_task_sticks_until_it_is_released(start):
    emulator = start(replace(TEST_SETTINGS, timing=Timing()))
    inject(emulator, {"kind": "stick", "match": "stuck"})
    stuck, free = emulator.created("https://media.example.com/stuck.mp4"), emulator.created()
    emulator.emulator.finish(free)
    emulator.emulator.advance(10**6 - 700_000)
    assert emulator.retrieve(stuck)["status"] == "processing"
    assert emulator.retrieve(free)["status"] == "ready"
    assert emulator.control("POST", f"/tasks/{stuck}/release").status_code == 200
    assert emulator.finished(stuck)["status"] == "ready"


def test_vectors_go_missing_and_come_shuffled_the_same_way_each_time(emulator):
    whole = emulator.finished(emulator.created())["data"]
    inject(emulator, {"kind": "missing", "option": "audio"}, {"kind": "missing", "scope": "clip", "fraction": 0.5},
           {"kind": "shuffle"})  # fmt: skip
    task_id = emulator.created()
    rows = emulator.finished(task_id)["data"]
    assert rows == emulator.retrieve(task_id)["data"]
    assert {row["embedding_option"] for row in rows} == {"visual", "transcription"}
    assert 2 < len(rows) < len(whole) * 2 / 3
    assert rows != [row for row in whole if row in rows]
    inject(emulator, {"kind": "missing"})
    assert emulator.finished(emulator.created())["data"] == []


def test_a_result_expires_early(emulator):
    inject(emulator, {"kind": "expire"})
    task_id = emulator.created()
    assert emulator.retrieve(task_id)["status"] == "processing"
    emulator.emulator.finish()
    assert emulator.http.get(f"{TASKS}/{task_id}").status_code == 404


def test_list_pages_repeat_and_shift(emulator):
    ids = [emulator.created(f"https://media.example.com/{number}.mp4") for number in range(6)][::-1]

    def page(number: int) -> list[str]:
        answer = emulator.http.get(TASKS, params={"page": number, "page_limit": 2})
        return [item["_id"] for item in answer.json()["data"]]

    inject(emulator, {"kind": "shift", "by": 1})
    assert (page(1), page(2)) == (ids[:2], ids[1:3])
    inject(emulator, {"kind": "shift", "by": -1})
    assert page(2) == ids[3:5]
    inject(emulator, {"kind": "duplicate", "items": 1})
    assert page(1) == [*ids[:2], ids[0]]


def listed(emulator: Caller, **query: Any) -> list[str]:
    return [item["_id"] for item in emulator.http.get(TASKS, params=query).json()["data"]]


def test_the_list_lags_behind_and_a_retrieve_does_not(emulator):
    old = emulator.created()
    emulator.emulator.advance(60)
    inject(emulator, {"kind": "lag", "lag_sec": 30})
    new = emulator.created()
    assert emulator.retrieve(new)["status"] == "processing"
    answer = emulator.http.get(TASKS).json()
    assert ([item["_id"] for item in answer["data"]], answer["page_info"]["total_results"]) == ([old], 1)
    assert listed(emulator, ended_at="2099-01-01T00:00:00Z") == [old]
    emulator.emulator.advance(29)
    assert listed(emulator) == [old]
    emulator.emulator.advance(1)
    assert listed(emulator) == [new, old]
    assert {entry["faults"][0] for entry in emulator.emulator.journal("list")} == {"lag-1"}


@pytest.mark.parametrize(("connection", "error"), [("drop", httpx.ReadError), ("hang", httpx.ReadTimeout)])
def test_a_task_is_made_long_after_its_client_is_gone(emulator, connection, error):
    inject(emulator, {"kind": "late", "delay_sec": 600, "connection": connection, "count": 1, "match": "late"})
    with pytest.raises(error):
        emulator.create("https://media.example.com/late.mp4")
    prompt = emulator.created()
    emulator.emulator.advance(599)
    assert listed(emulator) == [prompt]
    assert emulator.emulator.summary()["tasks_created"] == 1
    began = emulator.emulator.platform.clock.now() - 599_000
    emulator.emulator.advance(3600)
    # As if its time had been looked at all the while: it bears the time at which it was due.
    late, _ = emulator.emulator.tasks()
    assert (late.input_url, late.created_at) == ("https://media.example.com/late.mp4", began + 600_000)
    assert listed(emulator) == [late.id, prompt]
    assert emulator.emulator.summary()["tasks_created"] == 2
    assert emulator.finished(late.id)["status"] == "ready"
    (entry, _) = emulator.emulator.journal("create")
    assert (entry["status"], entry["task_id"], entry["faults"]) == (None, None, ["late-1"])
    emulator.emulator.advance(10**6)
    assert len(emulator.emulator.tasks()) == 2


def test_what_is_sent_again_before_its_late_task_is_made_is_paid_for_twice(emulator):
    inject(emulator, {"kind": "late", "delay_sec": 60, "count": 1})
    with pytest.raises(httpx.ReadError):
        emulator.create()
    emulator.created()
    emulator.emulator.advance(60)
    assert emulator.emulator.summary()["repeated_sources"] == {"https://media.example.com/a.mp4": 2}


def test_a_late_create_is_checked_at_once_and_again_when_it_is_due(start, media_folder):
    settings = replace(TEST_SETTINGS, media_root=media_folder, limits={"media_minutes_per_hour": 1})
    emulator = start(settings)
    inject(emulator, {"kind": "late", "delay_sec": 60})
    assert emulator.http.post(TASKS, json={"input_type": "smell"}).status_code == 400
    with pytest.raises(httpx.ReadError):
        emulator.create("file:///etc/hostname")  # outside the root: refused, but nobody is told
    with pytest.raises(httpx.ReadError):
        emulator.create()
    inject(emulator)
    assert emulator.create().status_code == 202
    emulator.emulator.advance(61)
    assert len(emulator.emulator.tasks()) == 2
    # Its minutes count from then on.
    refused = emulator.create()
    assert (refused.status_code, refused.headers["x-ratelimit-duration-remaining"]) == (429, "0")


def test_late_creates_outlive_a_restart(start, tmp_path):
    settings = replace(TEST_SETTINGS, state=tmp_path / "state")
    with InProcessEmulator(settings) as first:
        first.inject({"kind": "late", "delay_sec": 60})
        with pytest.raises(httpx.ReadError):
            Caller(first).create()
    second = start(settings)
    assert task_count(second) == 0
    second.emulator.advance(3600)
    assert task_count(second) == 1


def test_a_late_create_is_made_in_real_time_too(start):
    emulator = start()
    inject(emulator, {"kind": "late", "delay_sec": 0})
    with pytest.raises(httpx.ReadError):
        emulator.create()
    deadline = time.monotonic() + 60
    while not emulator.emulator.tasks():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.server
def test_a_client_that_gives_up_leaves_its_late_task_behind():
    with Emulator(TEST_SETTINGS) as server, httpx.Client(base_url=server.base_url, headers={"x-api-key": "k"}) as http:
        server.platform.faults.replace([{"kind": "late", "delay_sec": 60, "connection": "hang"}])
        with pytest.raises(httpx.ReadTimeout):
            http.post(TASKS, json=video_request(), timeout=0.2)
        server.platform.clock.advance(60)
        assert http.get(TASKS).json()["page_info"]["total_results"] == 1


@pytest.mark.parametrize(("kind", "sizes"), [("drip", {1}), ("slow", {10})])
def test_a_body_drips_byte_by_byte_or_trickles(kind, sizes):
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"0123456789" * 3})

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    (rule,) = FaultPlan([{"kind": kind, "bytes_per_sec": 100.0 if kind == "slow" else 10**6}]).rules
    asyncio.run(Injection(FaultPlan(), answer).serve([rule], {}, None, send))
    blocks = [message["body"] for message in sent[1:-1]]
    assert b"".join(blocks) == b"0123456789" * 3
    assert {len(block) for block in blocks} == sizes


@pytest.mark.parametrize("skew", [3600.0, -86_400.5])
def test_the_platforms_clock_may_be_skewed(start, skew):
    emulator = start(replace(TEST_SETTINGS, clock_skew_sec=skew))
    here = time.time()
    created = emulator.created()
    item = emulator.http.get(TASKS).json()["data"][0]
    told = emulator.http.get(f"{TASKS}/{created}").headers["date"]
    assert parsedate_to_datetime(told).timestamp() - here == pytest.approx(skew, abs=60)
    assert from_rfc3339(item["created_at"]) / 1000 - here == pytest.approx(skew, abs=60)
    emulator.emulator.advance(500)
    later = emulator.control("GET", "/status")
    assert parsedate_to_datetime(later.headers["date"]) - parsedate_to_datetime(told) == timedelta(seconds=500)


def test_a_rule_happens_as_often_and_as_late_as_it_says():
    plan = FaultPlan([{"kind": "status", "on": "create", "skip": 2, "count": 3}])
    happened = [bool(plan.draw("create", "")) for _ in range(8)]
    assert happened == [False, False, True, True, True, False, False, False]
    assert plan.to_json()["faults"][0]["happened"] == 3
    assert plan.draw("list", "") == []


def test_the_same_seed_gives_the_same_faults():
    rule = {"kind": "status", "probability": 0.3}

    def draws(seed: int) -> list[bool]:
        plan = FaultPlan([rule], seed)
        return [bool(plan.draw("list", "")) for _ in range(500)]

    assert draws(1) == draws(1) != draws(2)
    assert 100 < sum(draws(1)) < 200


@pytest.mark.parametrize("distribution", ["constant", "uniform", "exponential", "lognormal"])
def test_latencies_follow_their_distribution(distribution):
    plan = FaultPlan([{"kind": "latency", "seconds": 2.0, "spread": 0.3, "distribution": distribution}])
    drawn = [plan.latency(plan.rules[0]) for _ in range(2000)]
    assert min(drawn) >= 0
    assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.15)
    assert (len(set(drawn)) == 1) is (distribution == "constant")


def test_a_latency_delays_the_answer(emulator):
    inject(emulator, {"kind": "latency", "seconds": 0.15, "on": "list", "count": 1})
    emulator.http.get(TASKS)
    emulator.http.get(TASKS)
    slow, quick = emulator.emulator.journal("list")
    assert slow["took_ms"] >= 149
    assert (slow["faults"], quick["faults"]) == (["latency-1"], [])


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("drop", "object"),
        ({"kind": "explode"}, "explode"),
        ({"kind": "drop", "on": "nowhere"}, "nowhere"),
        ({"kind": "fail", "on": "list"}, "list"),
        ({"kind": "drop", "colour": 1}, "colour"),
        ({"kind": "drop", "when": "never"}, "never"),
        ({"kind": "drop", "probability": 2}, "probability"),
        ({"kind": "drop", "count": "many"}, "count"),
        ({"kind": "status", "status": 99}, "status"),
        ({"kind": "truncate", "fraction": True}, "fraction"),
        ({"kind": "latency", "seconds": -1}, "seconds"),
        ({"kind": "drop", "count": 1.5}, "count"),
        ({"kind": "drop", "match": 5}, "match"),
        ({"kind": "fail", "message": 5}, "message"),
        ({"kind": "missing", "option": "visuall"}, "visuall"),
        ({"kind": "late", "connection": "keep"}, "keep"),
        ({"kind": "late", "on": "list"}, "list"),
        ({"kind": "lag", "lag_sec": "long"}, "lag_sec"),
    ],
)
def test_a_rule_that_makes_no_sense_is_named(emulator, rule, names):
    with pytest.raises(ConfigurationError, match=names) as caught:
        FaultPlan([{"kind": "drop"}, rule])
    assert "rule 2" in caught.value.message
    answer = emulator.control("PUT", "/faults", {"faults": [rule]})
    assert answer.status_code == 400
    assert names in answer.json()["message"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"faults": [{"kind": "drop"},]}', "line 1"),
        ('{"faults": [{"kind": "drop"}, {"kind": "explode"}]}', "rule 2 has the unknown kind 'explode'"),
        ('{"seed": 7, "fault": []}', "form"),
        ('{"seed": 7, "sed": 8, "faults": []}', "form"),
        ('{"seed": "7", "faults": []}', "form"),
    ],
)
def test_a_faults_file_with_a_mistake_is_named_with_the_mistake(tmp_path, text, names):
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=names) as caught:
        read_faults(path)
    assert str(path) in caught.value.message

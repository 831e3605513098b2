from __future__ import annotations

from dataclasses import replace

import pytest

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.rate_limits import PLANS, RateLimiter, limits_of
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.testing import TEST_SETTINGS
from embed_pipeline_tests.emulator.conftest import TASKS


def test_requests_beyond_the_limit_are_told_when_to_come_back_and_create_nothing(start):
    emulator = start(replace(TEST_SETTINGS, plan="free"))
    answers = [emulator.create() for _ in range(27)]
    assert [answer.status_code for answer in answers] == [202] * 25 + [429] * 2
    assert len(emulator.emulator.tasks()) == 25
    refused = answers[-1]
    assert refused.headers["retry-after"] == "60"
    assert refused.headers["x-ratelimit-dimensions"] == "Duration,Request"
    assert refused.headers["x-ratelimit-request-limit"] == "25"
    assert refused.headers["x-ratelimit-request-remaining"] == "0"
    assert refused.json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    assert refused.json()["error"]["details"]["retryAfter"] == "60"
    assert answers[0].headers["x-ratelimit-request-remaining"] == "24"
    # 600 minutes an hour, in seconds.
    assert answers[0].headers["x-ratelimit-duration-limit"] == "36000"
    emulator.emulator.advance(60)
    assert emulator.create().status_code == 202


def test_polling_is_counted_only_where_the_switch_says_so(start):
    for counted, status in ((False, 200), (True, 429)):
        switches = Switches(limit_polling=counted)
        emulator = start(replace(TEST_SETTINGS, limits={"requests_per_minute": 2}, switches=switches))
        statuses = [emulator.http.get(TASKS).status_code for _ in range(3)]
        assert statuses[-1] == status


def test_the_task_that_crosses_the_media_limit_is_served_and_the_next_is_not(start):
    # Every source counts as one minute of media.
    emulator = start(replace(TEST_SETTINGS, limits={"media_minutes_per_hour": 1.5}))
    assert [emulator.create().status_code for _ in range(3)] == [202, 202, 429]
    last = emulator.create()
    assert last.headers["x-ratelimit-dimensions"] == "Duration"
    assert last.headers["retry-after"] == "3600"
    emulator.emulator.advance(3600)
    assert emulator.create(start_sec=10, end_sec=20).status_code == 202
    assert emulator.create().headers["x-ratelimit-duration-remaining"] == "80"


def test_uploads_have_a_budget_of_their_own(start):
    emulator = start(replace(TEST_SETTINGS, limits={"uploads_per_minute": 1}))
    form = {"data": {"method": "direct"}, "files": {"file": ("a.mp4", b"x")}}
    assert emulator.http.post("/assets", **form).status_code == 201
    refused = emulator.http.post("/assets", **form)
    assert refused.status_code == 429
    assert refused.json()["code"] == "too_many_requests"
    assert emulator.create().status_code == 202


def test_limits_change_while_it_runs(emulator):
    assert (
        emulator.control("PUT", "/limits", {"plan": "tier2", "limits": {"requests_per_minute": 0}}).status_code == 200
    )
    assert emulator.create().status_code == 429
    assert emulator.control("PUT", "/limits", {}).json() == {"limits": {}}
    assert emulator.create().status_code == 202
    assert emulator.control("PUT", "/limits", {"plan": "gold"}).status_code == 400


@pytest.mark.parametrize("overrides", [{"requests_per_week": 1}, {"requests_per_day": -1}, {"requests_per_day": True}])
def test_a_limit_that_makes_no_sense_is_named(overrides):
    with pytest.raises(ConfigurationError, match=next(iter(overrides))):
        limits_of("none", overrides)


@pytest.mark.parametrize("plan", sorted(PLANS))
def test_a_plan_never_lets_more_requests_through_than_it_says(plan):
    limits = limits_of(plan, {})
    limiter = RateLimiter(limits)
    allowed = sum(limiter.request("embed", now).allowed for now in range(0, 120_000, 400))
    per_minute = limits.get("requests_per_minute")
    assert allowed == (300 if per_minute is None else 2 * per_minute)


def test_a_reset_is_an_instant_or_a_wait():
    for unit, reset in (("epoch", "1060"), ("delta", "60")):
        decision = RateLimiter({"requests_per_minute": 5}, unit).request("embed", 1_000_000)
        assert decision.headers["X-RateLimit-Request-Reset"] == reset


def test_the_older_headers_come_beside_the_newer_where_the_switch_says_so(start):
    limits = {"requests_per_minute": 3}
    assert "x-ratelimit-used" not in start(replace(TEST_SETTINGS, limits=limits)).create().headers
    emulator = start(replace(TEST_SETTINGS, limits=limits, switches=Switches(old_rate_headers=True)))
    answers = [emulator.create() for _ in range(4)]
    assert [answer.headers["x-ratelimit-used"] for answer in answers] == ["1", "2", "3", "3"]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[-1].headers["x-ratelimit-limit"] == "3"
    now = emulator.emulator.platform.clock.now() / 1000
    assert int(answers[-1].headers["x-ratelimit-reset"]) == pytest.approx(now + 60, abs=1)

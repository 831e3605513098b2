from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.client import Budget, EmbedClient, Limits, RetryLaterError, RetryPolicy
from embed_pipeline.client.limits import EMBED, UPLOAD, read_retry_after

FOREVER = 1e9


@settings(max_examples=80, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=40),
    lengths=st.lists(st.floats(0, 3000), min_size=40, max_size=40),
    per_minute=st.integers(1, 5),
    hourly=st.integers(1, 60),
)
def test_no_window_ever_holds_more_than_the_limits(gaps, lengths, per_minute, hourly):
    budget = Budget(Limits(requests_per_minute=per_minute, media_minutes_per_hour=hourly))
    now, sent = 0.0, []
    for gap, seconds in zip(gaps, lengths, strict=False):
        now += gap
        sent.append((now + budget.reserve(EMBED, now, seconds, max_wait_sec=FOREVER), seconds))
    for at, _ in sent:
        window = [other for other, _ in sent if at - 60 + 1e-6 < other <= at]
        assert len(window) <= per_minute
        hour = [each for other, each in sent if at - 3600 + 1e-6 < other <= at]
        assert sum(hour) <= max(hourly * 60, *hour) * (1 + 1e-6)


def test_within_the_limits_nobody_waits():
    budget = Budget(Limits.plan("free"))
    assert [budget.reserve(EMBED, 0.0, 60.0, max_wait_sec=FOREVER) for _ in range(25)] == [0.0] * 25
    assert budget.reserve(EMBED, 0.0, 60.0, max_wait_sec=FOREVER) == pytest.approx(60.0)
    assert budget.reserve(UPLOAD, 0.0, max_wait_sec=FOREVER) == 0.0


def test_a_wait_that_is_too_long_takes_nothing_out_of_the_budget():
    budget = Budget(Limits(requests_per_minute=1))
    budget.reserve(EMBED, 0.0, max_wait_sec=0)
    assert budget.reserve(EMBED, 10.0, max_wait_sec=5) == pytest.approx(50.0)
    assert budget.reserve(EMBED, 58.0, max_wait_sec=5) == pytest.approx(2.0)


def test_media_that_was_refused_is_given_back():
    budget = Budget(Limits(media_minutes_per_hour=10))
    budget.reserve(EMBED, 0.0, 600.0, max_wait_sec=0)
    budget.refund_media(0.0, 600.0)
    assert budget.reserve(EMBED, 1.0, 600.0, max_wait_sec=FOREVER) == 0.0


def test_one_file_longer_than_the_limit_goes_alone():
    budget = Budget(Limits(media_minutes_per_hour=10))
    assert budget.reserve(EMBED, 0.0, 7200.0, max_wait_sec=FOREVER) == 0.0
    assert budget.reserve(EMBED, 1.0, 1.0, max_wait_sec=FOREVER) == pytest.approx(3599.0)


def test_headers_tell_what_others_have_spent():
    budget = Budget(Limits(requests_per_minute=25, media_minutes_per_hour=600))
    budget.update_from_headers(EMBED, {"x-ratelimit-request-limit": "25", "x-ratelimit-request-remaining": "0"}, 0.0)
    assert budget.reserve(EMBED, 10.0, max_wait_sec=0) == pytest.approx(50.0)
    other = Budget(Limits())
    headers = {"x-ratelimit-duration-limit": "36000", "x-ratelimit-duration-remaining": "10"}
    other.update_from_headers(EMBED, headers, 0.0)
    assert other.reserve(EMBED, 0.0, 10.0, max_wait_sec=0) == 0.0
    assert other.reserve(EMBED, 0.0, 10.0, max_wait_sec=0) == pytest.approx(3600.0)


HEADERS = [f"x-ratelimit-{kind}{what}" for kind in ("request-", "", "duration-") for what in ("limit", "remaining")]


ODD = ["", "0", "-1", "25", "nan", "inf", "1e400", "36000", "2 5", "\u0661", "text", "1_000"]


@given(st.lists(st.sampled_from(ODD), min_size=len(HEADERS), max_size=len(HEADERS)), st.sets(st.sampled_from(HEADERS)))
def test_no_header_can_break_the_budget(values, present):
    headers = {name: value for name, value in zip(HEADERS, values, strict=True) if name in present}
    budget = Budget(Limits.plan("tier-2"))
    budget.update_from_headers(EMBED, headers, 0.0)
    assert 0.0 <= budget.reserve(EMBED, 0.0, 1.0, max_wait_sec=FOREVER) <= 86400.0


def test_threads_share_one_budget_without_overspending():
    budget = Budget(Limits(requests_per_minute=10))
    waits: list[float] = []

    def spend() -> None:
        waits.extend(budget.reserve(EMBED, 0.0, max_wait_sec=0) for _ in range(50))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wait == 0.0 for wait in waits) == 10


def test_clients_of_one_process_share_their_budget(platform, video):
    limits = Limits(requests_per_minute=2)
    for number in range(3):
        retries = RetryPolicy(max_wait_sec=1)
        with EmbedClient(api_key="shared", base_url=platform.base_url, limits=limits, retries=retries) as client:
            if number < 2:
                client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video())
            else:
                with pytest.raises(RetryLaterError):
                    client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video())
    assert len(platform.tasks) == 2


@pytest.mark.parametrize("plan", Limits.PLANS)
def test_every_plan_has_limits(plan):
    assert isinstance(Limits.plan(plan), Limits)


def test_an_unknown_plan_names_the_known_ones():
    with pytest.raises(ValueError, match="tier-2"):
        Limits.plan("gold")


NOW = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_waits_grow_to_the_longest_one_and_never_beyond(attempt, chance):
    policy = RetryPolicy()
    assert 0 < policy.delay(attempt, chance=chance) <= policy.max_delay_sec
    assert policy.delay(attempt + 1) >= policy.delay(attempt)


@given(seconds=st.floats(0, 1e6), chance=st.floats(0, 1))
def test_what_the_platform_asks_for_is_never_cut_short(seconds, chance):
    assert RetryPolicy().delay(1, retry_after_sec=seconds, chance=chance) >= seconds


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": format_datetime(NOW + timedelta(hours=5), usegmt=True)}, 18000.0),
        ({"retry-after": format_datetime(NOW - timedelta(hours=5), usegmt=True)}, 0.0),
        (
            {
                "retry-after": format_datetime(NOW + timedelta(hours=5), usegmt=True),
                "date": format_datetime(NOW + timedelta(hours=4), usegmt=True),
            },
            3600.0,
        ),
    ],
)
def test_retry_after_is_read_in_every_form(headers, expected):
    assert read_retry_after(headers, NOW) == expected


@pytest.mark.parametrize(
    "fields", [{"max_attempts": 0}, {"settle_delays_sec": ()}, {"create_statuses": frozenset({500})}]
)
def test_a_policy_that_could_pay_twice_cannot_be_made(fields):
    with pytest.raises(ValueError, match=r"(first attempt|without one look|4xx only)"):
        RetryPolicy(**fields)

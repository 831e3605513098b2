from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.client import RetryPolicy
from embed_pipeline.client.retries import read_retry_after

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

"""Leases of runs."""

from __future__ import annotations

import sqlalchemy as sa

from embed_pipeline.ledger import tables
from embed_pipeline_tests.ledger.values import DAY_SEC, LEASE_SEC


def test_lease_of_a_run_lapses_unless_it_is_renewed(ledger, clock):
    ledger.runs.renew("", "r1", lease_sec=LEASE_SEC)
    assert ledger.runs.leases("") == {"r1": True}
    clock.move(LEASE_SEC - 1)
    ledger.runs.renew("", "r1", lease_sec=LEASE_SEC)
    clock.move(LEASE_SEC - 1)
    assert ledger.runs.leases("") == {"r1": True}
    clock.move(1)
    assert ledger.runs.leases("") == {"r1": False}
    assert ledger.runs.leases("other") == {}


def test_run_that_ends_leaves_no_lease(ledger):
    ledger.runs.renew("", "r1", lease_sec=LEASE_SEC)
    ledger.runs.renew("", "r2", lease_sec=LEASE_SEC)
    ledger.runs.end("r1")
    assert ledger.runs.leases("") == {"r2": True}


def test_leases_of_runs_that_died_long_ago_are_forgotten(ledger, clock):
    ledger.runs.renew("", "r1", lease_sec=LEASE_SEC)
    ledger.runs.renew("other", "r2", lease_sec=LEASE_SEC)
    clock.move(31 * DAY_SEC)
    ledger.runs.renew("", "r3", lease_sec=LEASE_SEC)
    with ledger.database.read() as (connection, _):
        assert set(connection.execute(sa.select(tables.run.c.run_id)).scalars()) == {"r2", "r3"}

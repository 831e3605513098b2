"""Ledgers on both databases, with a clock that the test moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from embed_pipeline.ledger import Ledger
from embed_pipeline_tests.ledger.values import Clock
from embed_pipeline_tests.postgres import PostgresServer

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]


def _migrate(url: str) -> None:
    with Ledger(url) as ledger:
        ledger.now()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger to copy, which is faster than to migrate anew."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Iterator[str]:
    """The name of an empty ledger's database to copy."""
    with postgres.database() as name:
        _migrate(postgres.url(name))
        yield name


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty ledger, on each database."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.database(template=request.getfixturevalue("postgres_template")) as name:
            yield server.url(name)


@pytest.fixture
def clock() -> Clock:
    """The ledger's time."""
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger, on each database."""
    with Ledger(url, clock=clock) as opened:
        yield opened

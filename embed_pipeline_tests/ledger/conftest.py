"""Ledgers on both databases, with a clock that the test moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from embed_pipeline.ledger import Ledger
from embed_pipeline.ledger.tables import metadata
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
def postgres_database(postgres: PostgresServer) -> Iterator[sa.Engine]:
    """A database with the tables of a ledger, to empty before each test: faster than a database for each."""
    with postgres.database() as name:
        _migrate(postgres.url(name))
        engine = sa.create_engine(sa.make_url(postgres.url(name)).set(drivername="postgresql+psycopg"))
        yield engine
        engine.dispose()


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty ledger, on each database."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    engine: sa.Engine = request.getfixturevalue("postgres_database")
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '20s'"))
        connection.execute(sa.text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY"))
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture(params=DATABASES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a ledger that is still to be made, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def clock() -> Clock:
    """The ledger's time."""
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger, on each database."""
    with Ledger(url, clock=clock) as opened:
        yield opened

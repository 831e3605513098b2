from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from embed_pipeline.media import samples, write_sample_library
from embed_pipeline_tests.media import awkward
from embed_pipeline_tests.postgres import PostgresServer, ServerUnavailableError, postgres_server

# Files that take long with few tests. They go first, or one process would be left alone with the last of them.
_LONGEST = ("test_daemon.py", "test_crash.py", "test_browser.py", "test_submission_turns.py")


# How long an example takes says something of the machine, and nothing of the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure() -> None:
    """Reset signals that were ignored when the tests were started (nohup, a job in the background).

    Processes that tests start would inherit that, and could not be ended in order.
    """
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others keep their order."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def sample_library(request: pytest.FixtureRequest) -> Path:
    """The sample library; read it, never write to it. Kept from run to run for as long as its recipes stay the same."""
    recipes = b"".join(path.read_bytes() for path in sorted(Path(samples.__file__).parent.glob("*.py")))
    folder = request.config.cache.mkdir(f"sample_library-{hashlib.sha256(recipes).hexdigest()[:12]}")
    write_sample_library(folder)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test process; the test is skipped where none can be had."""
    try:
        with postgres_server() as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(f"no PostgreSQL: {error}")


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database on a PostgreSQL server."""
    with postgres.database() as name:
        yield postgres.url(name)


@pytest.fixture(scope="session")
def awkward_files(request: pytest.FixtureRequest) -> Path:
    """The folder with the files of `awkward.PLAYABLE`; read them, never write to them. Kept like the sample library."""
    recipes = Path(awkward.__file__).read_bytes()
    folder = request.config.cache.mkdir(f"awkward-{hashlib.sha256(recipes).hexdigest()[:12]}")
    for file in awkward.PLAYABLE:
        if not (folder / file.name).exists():
            unfinished = folder / f".{os.getpid()}.{file.name}"
            unfinished.write_bytes(file.make())
            unfinished.replace(folder / file.name)
    return folder

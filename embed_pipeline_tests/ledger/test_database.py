from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.ledger import Database, Ledger, LedgerError, database
from embed_pipeline.ledger.database import default_url
from embed_pipeline.ledger.migrations.versions import HEAD
from embed_pipeline.ledger.tables import media, metadata
from embed_pipeline_tests.ledger.values import TARGET, facts
from embed_pipeline_tests.postgres import PostgresServer

_NOBODY = 65534


def on_sqlite(path: Path) -> str:
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def error_of(url: str) -> str:
    with Ledger(url) as ledger, pytest.raises(LedgerError) as caught:
        ledger.media.record(TARGET, [facts()])
    return caught.value.message


def insert_file(connection: sa.Connection, now: float) -> None:
    values = {"pipeline": "", "key": "a.mp4", "uri": "file:///a.mp4", "media_type": "video", "fingerprint": "f1"}
    connection.execute(sa.insert(media).values(**values, changed_at=now, updated_at=now))


def shown(error: BaseException) -> str:
    """Return all that a log would have of an error."""
    return "".join(traceback.format_exception(error))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run as somebody whom file permissions hold back."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter and write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


# URLs


@pytest.mark.parametrize("name", ["data", "with space", "what?#%20;and=more&", "ümläut 映画"])
def test_default_ledger_is_a_file_below_the_dataset_root(tmp_path, name):
    root = tmp_path / name
    url = default_url(str(root))
    with Ledger(url) as ledger:
        ledger.now()
    assert (root / "ledger.db").stat().st_size > 0
    assert default_url(f"file://{root}") == url


def test_default_ledger_of_a_relative_root_does_not_move_with_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_url("data") == on_sqlite(tmp_path / "data" / "ledger.db")


@pytest.mark.parametrize("root", ["s3://bucket/data", "gs://bucket", "ABFS://box/data"])
def test_object_store_has_no_default_ledger(root):
    with pytest.raises(ConfigurationError, match=r"EMBED_LEDGER.*postgresql://user:password@host:5432/database"):
        default_url(root)


@pytest.mark.parametrize(
    "url",
    ["", "  ", "/data/ledger.db", "ledger", "postgresql://me:geheim1@host:port/db", "mysql://me:geheim1@host/db",
     "sqlite://", "sqlite:///:memory:", "mongodb+srv://me:geheim1@host"],
)  # fmt: skip
def test_url_of_another_kind_is_refused_with_both_forms(url):
    with pytest.raises(ConfigurationError) as caught:
        Ledger(url)
    assert "sqlite:////absolute/path/ledger.db" in caught.value.message
    assert "postgresql://user:password@host:5432/database" in caught.value.message
    assert "geheim1" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_relative_sqlite_path_is_refused_with_the_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="relative") as caught:
        Ledger("sqlite:///ledger.db")
    assert f"sqlite:///{tmp_path}/ledger.db" in caught.value.message


def test_at_sign_in_the_password_is_refused_without_showing_any_of_it():
    with pytest.raises(ConfigurationError, match="%40") as caught:
        Ledger("postgresql://me:first@second@host/db")
    assert "first" not in str(caught.value)
    assert "second" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:////data/Films/Ledger.db", "the ledger /data/Films/Ledger.db"),
        ("postgresql://me:geheim1@db.example.com:5432/media", "the ledger on db.example.com/media"),
        ("postgres://me:geheim1@db.example.com/media", "the ledger on db.example.com/media"),
        ("postgresql+asyncpg://me:geheim1@db.example.com/media", "the ledger on db.example.com/media"),
        ("postgresql://me:ge%40heim1%2F@db.example.com/media", "the ledger on db.example.com/media"),
        ("postgresql:///media?host=/var/run&password=geheim1&user=me", "the ledger on localhost/media"),
    ],
)
def test_ledger_is_named_without_user_and_password(url, place):
    with Ledger(url) as ledger:
        assert ledger.database.place == place
        assert place in repr(ledger)
        assert "heim1" not in repr(ledger) + repr(ledger.database)


# Opening


def test_ledger_is_made_at_its_first_use_with_its_folder(tmp_path):
    path = tmp_path / "deep" / "down" / "ledger.db"
    ledger = Ledger(on_sqlite(path))
    assert not path.parent.exists()
    with ledger:
        ledger.media.record(TARGET, [facts()])
    with Ledger(on_sqlite(path)) as again:
        assert again.keys("") == ["a.mp4"]


def test_ledger_that_was_closed_opens_again(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.close()
    ledger.close()
    assert ledger.keys("") == ["a.mp4"]


def test_opening_a_ledger_that_is_up_to_date_needs_no_alembic(ledger, url):
    ledger.now()
    code = f"""
import sys
from embed_pipeline.ledger import Ledger
Ledger({url!r}).now()
sys.exit("alembic" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_migrations_make_the_tables_that_the_queries_use(new_url):
    with Ledger(new_url) as ledger, ledger.database.read() as (connection, _):
        context = MigrationContext.configure(
            connection, opts={"version_table": "ledger_version", "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        # What the comparison does not look at.
        inspector = sa.inspect(connection)
        made = {index["name"]: _condition(index) for table in metadata.tables for index in inspector.get_indexes(table)}
    for table in metadata.tables.values():
        for index in table.indexes:
            wanted = index.dialect_options["sqlite"]["where"]
            assert made[index.name] == (_plain(str(wanted)) if wanted is not None else None), index.name


def _condition(index) -> str | None:
    found = [where for name, where in index.get("dialect_options", {}).items() if name.endswith("_where")]
    return _plain(str(found[0])) if found else None


def _plain(condition: str) -> str:
    """Return a condition without what PostgreSQL adds to it."""
    for part in ("(", ")", "::text"):
        condition = condition.replace(part, "")
    return condition.replace("<>", "!=")


def test_migration_that_ran_before_does_nothing(new_url):
    for _ in range(2):
        with Ledger(new_url) as ledger:
            ledger.now()
            with ledger.database.read() as (connection, _):
                assert connection.execute(sa.text("SELECT version_num FROM ledger_version")).scalars().all() == [HEAD]


def test_ledger_of_an_earlier_version_is_migrated_when_opened(new_url):
    """A ledger whose migration was cut off before its tables were made counts as empty."""
    with Ledger(new_url) as ledger, ledger.database.write() as (connection, _):
        metadata.drop_all(connection)
        connection.execute(sa.text("DELETE FROM ledger_version"))
    with Ledger(new_url) as ledger:
        ledger.media.record(TARGET, [facts()])
        assert ledger.keys("") == ["a.mp4"]


def test_ledger_of_a_newer_version_is_left_alone(new_url):
    with Ledger(new_url) as ledger, ledger.database.write() as (connection, _):
        connection.execute(sa.text("UPDATE ledger_version SET version_num = '9999'"))
    message = error_of(new_url)
    assert "newer version" in message
    assert "Upgrade the package" in message
    assert message.startswith("The ledger ")
    with Ledger(new_url) as ledger, pytest.raises(LedgerError, match="newer version"):
        ledger.now()


_OPEN_TOGETHER = """
import sys, time
from embed_pipeline.ledger import Ledger
from embed_pipeline.ledger.migrations import versions
import alembic.command
print("ready", flush=True)
sys.stdin.readline()
with Ledger(sys.argv[1]) as ledger:
    ledger.now()
"""


def open_together(url: str, count: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN_TOGETHER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * count


def test_processes_that_open_a_new_file_at_once_all_get_it(tmp_path):
    open_together(on_sqlite(tmp_path / "ledger.db"), 3)
    with Ledger(on_sqlite(tmp_path / "ledger.db")) as ledger:
        assert ledger.keys("") == []


@pytest.mark.server
def test_processes_that_open_an_empty_database_at_once_all_get_it(postgres_url):
    open_together(postgres_url, 3)
    with Ledger(postgres_url) as ledger:
        assert ledger.keys("") == []


def test_threads_that_open_a_ledger_at_once_all_get_it(tmp_path):
    def use(number: int) -> float:
        with Ledger(on_sqlite(tmp_path / f"{number % 2}.db")) as ledger:
            return ledger.now()

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(use, range(8)))) == 8


# Transactions


def test_transaction_that_fails_leaves_nothing(ledger):
    def fail() -> None:
        with ledger.database.write() as (connection, now):
            insert_file(connection, now)
            raise RuntimeError("by the way")

    with pytest.raises(RuntimeError, match="by the way"):
        fail()
    assert ledger.keys("") == []


def test_time_comes_from_the_database(url):
    with Ledger(url) as ledger:
        times = [time.time(), ledger.now(), time.time()]
    assert times[0] - 0.01 <= times[1] <= times[2] + 0.01


def test_many_threads_write_side_by_side(ledger):
    def record(number: int) -> None:
        ledger.media.record(TARGET, [facts(f"{number}.mp4")])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(record, range(48)))
    assert len(ledger.keys("")) == 48


def test_reader_sees_one_state_while_others_write(ledger):
    ledger.media.record(TARGET, [facts(f"{number:03}.mp4") for number in range(20)])
    rows = ledger.all_rows(TARGET)
    assert next(rows).key == "000.mp4"
    ledger.media.record(TARGET, [facts("100.mp4")])
    assert len(list(rows)) == 19


@pytest.mark.server
def test_process_that_is_frozen_within_a_transaction_does_not_hold_up_the_others_for_ever(postgres_url, monkeypatch):
    monkeypatch.setattr(database, "_POSTGRES_TIMEOUTS_AND_NOW", _in_half_a_second(database._POSTGRES_TIMEOUTS_AND_NOW))
    frozen, other = Ledger(postgres_url), Ledger(postgres_url)
    with frozen, other:
        other.media.record(TARGET, [facts()])

        def freeze() -> None:
            with frozen.database.write() as (connection, _):
                connection.execute(sa.update(media).values(size=1))
                # The transaction stands still, until the server ends it or the other one gives up.
                with contextlib.suppress(LedgerError):
                    other.media.record(TARGET, [facts(size=2)])
                other.media.record(TARGET, [facts(size=3)])
                connection.execute(sa.update(media).values(size=4))

        with pytest.raises(LedgerError):
            freeze()
        assert other.rows(TARGET, ["a.mp4"])["a.mp4"].size == 3


def _in_half_a_second(timeouts: sa.TextClause) -> sa.TextClause:
    assert "'60s'" in timeouts.text
    return sa.text(timeouts.text.replace("'60s'", "'0.5s'"))


# Errors


def test_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"some text that is no database, long enough to be looked at" * 100)
    message = error_of(on_sqlite(path))
    assert message.startswith(f"The ledger {path}: file is not a database.")
    assert "name another one" in message


def test_damaged_file_says_how_to_restore_it(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(on_sqlite(path)) as ledger:
        ledger.media.record(TARGET, [facts(f"{number}.mp4") for number in range(2000)])
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))
    with Ledger(on_sqlite(path)) as ledger, pytest.raises(LedgerError, match=r"malformed.*ledger import"):
        list(ledger.all_rows(TARGET))


def test_folder_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / "ledger.db").mkdir()
    assert str(tmp_path / "ledger.db") in error_of(on_sqlite(tmp_path / "ledger.db"))


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    message = error_of(on_sqlite(tmp_path / "file" / "data" / "ledger.db"))
    assert message == f"The ledger {tmp_path}/file/data/ledger.db cannot be made: Not a directory."


def test_read_only_file_says_so(public_folder):
    path = public_folder / "ledger.db"
    with Ledger(on_sqlite(path)) as ledger:
        ledger.now()
    path.chmod(0o444)
    with unprivileged():
        message = error_of(on_sqlite(path))
    assert "readonly" in message
    assert "Make the file and its folder writable" in message


def test_read_only_folder_says_so(public_folder):
    public_folder.chmod(0o555)
    with unprivileged():
        message = error_of(on_sqlite(public_folder / "ledger.db"))
    assert "unable to open" in message
    assert "Check that its folder exists and is writable" in message


def test_full_disk_loses_nothing_that_was_committed(tmp_path):
    def limit(connection, _record):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA max_page_count = 60")

    event.listen(sa.Engine, "connect", limit)
    try:
        with Ledger(on_sqlite(tmp_path / "ledger.db")) as ledger:
            ledger.media.record(TARGET, [facts()])
            with pytest.raises(LedgerError, match=r"disk is full. Free some space; what was committed is safe"):
                ledger.media.record(TARGET, [facts(f"{number}.mp4") for number in range(10_000)])
            assert "a.mp4" in ledger.keys("")
    finally:
        event.remove(sa.Engine, "connect", limit)


def test_file_that_another_process_holds_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_SEC", 0.2)
    url = on_sqlite(tmp_path / "ledger.db")
    with Ledger(url) as ledger, Ledger(url) as other:
        ledger.now()
        other.now()
        with ledger.database.write(), pytest.raises(LedgerError, match=r"locked. Another process holds it for long"):
            other.media.record(TARGET, [facts()])
        other.media.record(TARGET, [facts()])
        assert ledger.keys("") == ["a.mp4"]


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The waits between connections, which take no time."""
    found: list[float] = []
    monkeypatch.setattr(database.time, "sleep", found.append)
    return found


@pytest.mark.server
def test_server_that_is_down_is_tried_a_few_times_and_then_named(postgres, waits):
    message = error_of(f"postgresql://me:geheim1@127.0.0.1:{_closed_port()}/media")
    assert message.startswith("The ledger on 127.0.0.1/media: ")
    assert "refused" in message
    assert "Check that it runs and can be reached" in message
    assert "geheim1" not in message
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.server
def test_server_that_comes_back_meanwhile_is_used(postgres_url, monkeypatch):
    ledger = Ledger(postgres_url)
    good = ledger.database._url
    ledger.database._url = good.set(port=_closed_port())
    monkeypatch.setattr(database.time, "sleep", lambda _: setattr(ledger.database, "_url", good))
    with ledger:
        ledger.media.record(TARGET, [facts()])
        assert ledger.keys("") == ["a.mp4"]


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return closed.getsockname()[1]


@pytest.mark.server
def test_wrong_password_is_said_at_once_and_never_shown(postgres: PostgresServer, waits, caplog):
    caplog.set_level(logging.DEBUG)
    with (
        Ledger(postgres.url("postgres", password="wrong-geheim1")) as ledger,
        pytest.raises(
            LedgerError, match=r"password authentication failed.*Check user and password in EMBED_LEDGER"
        ) as c,
    ):
        ledger.now()
    assert waits == []
    assert "geheim1" not in shown(c.value) + caplog.text


@pytest.mark.server
def test_database_that_does_not_exist_is_named(postgres: PostgresServer, waits):
    message = error_of(postgres.url("nowhere"))
    assert 'database "nowhere" does not exist. Create it, or mend EMBED_LEDGER.' in message
    assert waits == []


@pytest.mark.server
def test_user_who_may_not_create_tables_is_told_what_is_missing(postgres: PostgresServer):
    with postgres.database() as name:
        postgres.run("CREATE USER guest PASSWORD 'geheim1'")
        try:
            url = sa.make_url(postgres.url(name)).set(username="guest", password="geheim1")
            message = error_of(url.render_as_string(hide_password=False))
        finally:
            postgres.run("DROP USER guest")
    assert "permission denied for schema public. Grant the user the right to create" in message


@pytest.mark.server
def test_connections_that_the_server_dropped_are_made_anew(postgres_url):
    with Ledger(postgres_url) as ledger, Ledger(postgres_url) as killer:
        ledger.media.record(TARGET, [facts()])
        with killer.database.write() as (connection, _):
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid != pg_backend_pid()"
                )
            )
        assert ledger.keys("") == ["a.mp4"]


@pytest.mark.server
def test_connection_that_is_cut_within_a_transaction_is_an_error_and_nothing_was_written(postgres_url):
    with Ledger(postgres_url) as ledger:
        ledger.now()

        def cut() -> None:
            with ledger.database.write() as (connection, now):
                insert_file(connection, now)
                connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

        with pytest.raises(LedgerError, match="nothing was lost"):
            cut()
        assert ledger.keys("") == []


@pytest.mark.server
def test_more_threads_than_connections_wait_for_each_other(postgres_url):
    with Ledger(postgres_url) as ledger:

        def record(number: int) -> None:
            ledger.media.record(TARGET, [facts(f"{number}.mp4")])

        with ThreadPoolExecutor(40) as pool:
            list(pool.map(record, range(80)))
        assert len(ledger.keys("")) == 80


def test_postgresql_without_its_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with (
        Ledger("postgresql://me:geheim1@host/db") as ledger,
        pytest.raises(ConfigurationError, match=r"embed-pipeline\[postgres\]"),
    ):
        ledger.now()


def test_values_of_a_failed_statement_are_not_in_its_error(ledger):
    values = {"pipeline": "", "key": "geheim1".upper()}
    with pytest.raises(LedgerError) as caught, ledger.database.write() as (connection, _):
        connection.execute(sa.insert(media).values(values))
    assert "GEHEIM1" not in str(caught.value) + str(caught.value.__cause__).partition("DETAIL:")[0]


def test_threads_share_one_engine(ledger):
    engines = set()
    barrier = threading.Barrier(4)

    def use() -> None:
        barrier.wait()
        ledger.now()
        engines.add(id(ledger.database._engine))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engines) == 1


def test_database_may_be_used_by_itself(url):
    with Database(url).read() as (connection, now):
        assert connection.execute(sa.select(sa.func.count()).select_from(media)).scalar_one() == 0
        assert now > 0

"""The ledger's database: one URL, one engine, short transactions, the schema's version, errors for people."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError
from embed_pipeline.redaction import redact

_BUSY_TIMEOUT_SEC = 60
_CONNECT_TIMEOUT_SEC = 10
_CONNECT_TRIES = 4
_FORMS = (
    "Use sqlite:////absolute/path/ledger.db for one machine, or postgresql://user:password@host:5432/database for "
    "several."
)
_MIGRATING = threading.Lock()


class LedgerError(EmbedPipelineError):
    """The ledger cannot be opened, read or written."""


def default_url(dataset_root: str) -> str:
    """Return the URL of the ledger that belongs to a dataset: a SQLite file below a local root.

    Args:
        dataset_root: The dataset's root: a local path or a URL.

    Raises:
        ConfigurationError: The root is in an object store, where no database file can be.
    """
    scheme, found, rest = dataset_root.partition("://")
    if found and scheme.lower() not in {"file", "local"}:
        raise ConfigurationError(
            f"The dataset is in an object store ({scheme}://), where the ledger cannot be. Set EMBED_LEDGER (the field "
            "ledger) to a database, such as postgresql://user:password@host:5432/database."
        )
    root = Path(rest if found else dataset_root).expanduser().absolute()
    return sa.URL.create("sqlite", database=str(root / "ledger.db")).render_as_string()


class Database:
    """Connections to the ledger's database; safe to use from many threads.

    Args:
        url: `sqlite:////path/ledger.db` or `postgresql://user:password@host:5432/database`.
        clock: Seconds since 1970, for tests that move time; by default the database's own clock.

    Raises:
        ConfigurationError: The URL is of no kind that the ledger takes.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._url = _parse(url)
        self._clock = clock
        self._engine: sa.Engine | None = None
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """The database for people: a file, or host and name; never a user or a password."""
        if self._url.get_backend_name() == "sqlite":
            return f"the ledger {self._url.database}"
        return f"the ledger on {self._url.host or 'localhost'}/{self._url.database}"

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self._url.get_backend_name() == "sqlite"

    def __repr__(self) -> str:
        return f"Database({self.place})"

    @contextmanager
    def write(self) -> Iterator[tuple[sa.Connection, float]]:
        """Open a transaction that may write, committed at its end.

        Yields:
            The connection, and the time by the database's clock.

        Raises:
            LedgerError: The database cannot be reached, is full, read-only or busy for a minute; nothing was written.
        """
        with self._connected(immediate=True) as connection, connection.begin():
            yield connection, self._now(connection, writing=True)

    @contextmanager
    def read(self) -> Iterator[tuple[sa.Connection, float]]:
        """Open a transaction that only reads.

        Yields:
            The connection, and the time by the database's clock.

        Raises:
            LedgerError: The database cannot be reached.
        """
        with self._connected(immediate=False) as connection, connection.begin():
            yield connection, self._now(connection)

    def now(self) -> float:
        """Return the time by the database's clock, in seconds since 1970."""
        with self.read() as (_, now):
            return now

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _now(self, connection: sa.Connection, *, writing: bool = False) -> float:
        if self.is_sqlite:
            # SQLite has no clock of its own: it asks the machine's.
            return (self._clock or time.time)()
        sql = _POSTGRES_TIMEOUTS_AND_NOW if writing else _POSTGRES_NOW
        now = connection.execute(sql).scalar_one()
        return float(now) if self._clock is None else self._clock()

    @contextmanager
    def _connected(self, *, immediate: bool) -> Iterator[sa.Connection]:
        try:
            with self._connect() as connection:
                yield connection.execution_options(immediate=immediate)
        except exc.DBAPIError as error:
            secrets = (str(self._url.password or ""), str(self._url.query.get("password", "")))
            words = redact(_sentence(error), *secrets)
            raise LedgerError(f"{_capitalized(self.place)}: {words}") from error
        except exc.TimeoutError as error:
            raise LedgerError(
                f"{_capitalized(self.place)}: all connections are in use for long. Lower the concurrency."
            ) from error

    def _connect(self) -> sa.Connection:
        for attempt in range(1, _CONNECT_TRIES):
            try:
                return self._ready().connect()
            except exc.OperationalError as error:
                # A server that restarts is back in seconds.
                if self.is_sqlite or not any(words in str(error.orig).lower() for words in _RESTARTING):
                    raise
                time.sleep(0.5 * 2**attempt)
        return self._ready().connect()

    def _ready(self) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                engine = self._new_engine()
                try:
                    migrate(engine, self.place)
                except BaseException:
                    engine.dispose()
                    raise
                self._engine = engine
            return self._engine

    def _new_engine(self) -> sa.Engine:
        if not self.is_sqlite:
            try:
                return sa.create_engine(
                    self._url,
                    hide_parameters=True,
                    pool_pre_ping=True,
                    connect_args={"connect_timeout": _CONNECT_TIMEOUT_SEC},
                )
            except ModuleNotFoundError:
                raise ConfigurationError(
                    "A ledger on PostgreSQL needs psycopg: install embed-pipeline[postgres]."
                ) from None
        path = Path(str(self._url.database))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{_capitalized(self.place)} cannot be made: {error.strerror}.") from error
        engine = sa.create_engine(
            self._url,
            hide_parameters=True,
            max_overflow=-1,  # whoever waits for the file holds a connection
            connect_args={"timeout": _BUSY_TIMEOUT_SEC, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


def migrate(engine: sa.Engine, place: str) -> None:
    """Bring the tables to this version's schema.

    Args:
        engine: The database.
        place: The database for people.

    Raises:
        LedgerError: A newer version of the package wrote the ledger.
    """
    from embed_pipeline.ledger.migrations.versions import HEAD

    # One statement where nothing is to be done, so that a sensor's tick need not import Alembic.
    current = _schema_version(engine)
    if current == HEAD:
        return
    if current is not None and current > HEAD:
        raise LedgerError(
            f"{_capitalized(place)} was written by a newer version of embed_pipeline (schema {current}, and this one "
            f"knows {HEAD}). Upgrade the package; nothing was changed."
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "embed_pipeline:ledger/migrations")
    # Alembic's context is a module's global, so that one thread at a time may migrate.
    with _MIGRATING, engine.connect().execution_options(immediate=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(4821094730)"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _schema_version(engine: sa.Engine) -> str | None:
    version = sa.Table("ledger_version", sa.MetaData(), sa.Column("version_num", sa.String))
    with engine.connect() as connection, connection.begin():
        if not sa.inspect(connection).has_table(version.name):
            return None
        return connection.execute(sa.select(version.c.version_num)).scalar()


_POSTGRES_NOW = sa.text("SELECT date_part('epoch', clock_timestamp())")
# A process that is frozen within a transaction must not keep its locks.
_POSTGRES_TIMEOUTS_AND_NOW = sa.text(
    "SELECT date_part('epoch', clock_timestamp()), "
    f"set_config('lock_timeout', '{_BUSY_TIMEOUT_SEC}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{_BUSY_TIMEOUT_SEC}s', true)"
)
_RESTARTING = ("connection refused", "starting up", "shutting down", "recovery mode")


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url.strip())
    except (exc.ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise ConfigurationError(
            f"The ledger's URL (EMBED_LEDGER, the field ledger) is no database URL. {_FORMS}"
        ) from None
    backend = parsed.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        if "@" in (parsed.host or ""):
            raise ConfigurationError(
                "The ledger's URL (EMBED_LEDGER, the field ledger) has an @ in its user or password, which must be "
                "written as %40 there."
            )
        # SQLAlchemy takes the plain name for another driver in its older versions.
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"The ledger cannot be kept in {backend}. {_FORMS}")
    if parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError(f"The ledger's URL names no file, and a ledger in memory would be lost. {_FORMS}")
    path = Path(str(parsed.database))
    if not path.is_absolute():
        # Runs and daemon may have different working folders: two ledgers, and everything paid for twice.
        absolute = sa.URL.create("sqlite", database=str(path.absolute()))
        raise ConfigurationError(
            f"The ledger's URL names a relative path ({path}), which every process may take for another file. "
            f"Use {absolute.render_as_string()} (four slashes)."
        )
    return parsed.set(drivername="sqlite")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite` alone
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _sentence(error: exc.DBAPIError) -> str:
    """Return the driver's words with what to do; the statement and its values are left out."""
    # PostgreSQL's details repeat the row.
    primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    words = " ".join(str(primary or error.orig).split()).rstrip(".?")
    advice = (
        ("readonly", "Make the file and its folder writable"),
        ("unable to open", "Check that its folder exists and is writable"),
        ("disk is full", "Free some space; what was committed is safe"),
        ("locked", "Another process holds it for long; look for one that hangs"),
        ("lock timeout", "Another process holds it for long; look for one that hangs"),
        ("not a database", "It is another kind of file; name another one"),
        ("malformed", "It is damaged; restore it, or delete it and run `embed-pipeline ledger import`"),
        ("password authentication", "Check user and password in EMBED_LEDGER"),
        ("permission denied", "Grant the user the right to create and change tables there"),
        ("does not exist", "Create it, or mend EMBED_LEDGER"),
    )
    hint = next((text for part, text in advice if part in words.lower()), None)
    if hint is None:
        hint = "Check that it runs and can be reached; nothing was lost, and the next run goes on"
    return f"{words}. {hint}."


def _capitalized(place: str) -> str:
    """Return the text with a large first letter; file names keep theirs."""
    return place[:1].upper() + place[1:]

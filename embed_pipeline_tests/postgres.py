"""A PostgreSQL server for tests: the machine's own programs, on loopback, with its data in a temporary folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Debian keeps the server's programs out of PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_STARTS = 3
_START_SEC = 60.0
_STOP_SEC = 20.0


class ServerUnavailableError(Exception):
    """The server cannot be started on this machine."""


class PostgresServer:
    """A running server, with a superuser who has a password.

    Args:
        process: The server's process.
        port: Its port on 127.0.0.1.
    """

    user = "embed"
    password = "correct/horse@battery:staple%2F"

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self._numbers = itertools.count(1)

    def url(self, database: str, *, password: str | None = None) -> str:
        """Return the URL of a database."""
        import sqlalchemy as sa

        url = sa.URL.create(
            "postgresql", self.user, self.password if password is None else password, "127.0.0.1", self.port, database
        )
        return url.render_as_string(hide_password=False)

    def run(self, statement: str) -> None:
        """Run a statement outside of the tests' databases and of any transaction."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Make a database for one test.

        Args:
            template: The database that it is a copy of.

        Yields:
            Its name.
        """
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Start a server, and stop it at the end.

    Args:
        durable: Whether each commit waits for the disk, as in earnest; tests need not.

    Raises:
        ServerUnavailableError: PostgreSQL or psycopg is not installed, or the server does not start.
    """
    programs = _programs()
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ServerUnavailableError("psycopg is not installed") from None
    # Not pytest's folder, which only its owner may enter: the server does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="embed-postgres-"))
    try:
        user = _unprivileged_user()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        _make_data(programs, folder, user)
        server = _start(programs, folder, user, durable=durable)
        try:
            yield server
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = shutil.which("postgres")
    if found is not None and Path(found).resolve().with_name("initdb").exists():
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]), reverse=True)
    if not versions:
        raise ServerUnavailableError("the PostgreSQL server is not installed (Debian: apt-get install postgresql)")
    return versions[0].parent


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user to run the server as; None for the present one."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerUnavailableError("PostgreSQL does not run as root, and there is no user to run it as")


def _as(user: pwd.struct_passwd | None) -> dict[str, int | list[int]]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _make_data(programs: Path, folder: Path, user: pwd.struct_passwd | None) -> None:
    secret = folder / "password"
    secret.write_text(PostgresServer.password)
    if user is not None:
        os.chown(secret, user.pw_uid, user.pw_gid)
    made = subprocess.run(
        [
            programs / "initdb",
            *("--pgdata", folder / "data", "--username", PostgresServer.user, "--pwfile", secret),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        **_as(user),
    )
    if made.returncode != 0:
        raise ServerUnavailableError(f"initdb failed: {made.stderr.strip()}")


def _start(programs: Path, folder: Path, user: pwd.struct_passwd | None, *, durable: bool) -> PostgresServer:
    log = folder / "log"
    for _ in range(_STARTS):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 60,
            "deadlock_timeout": "100ms",
        }
        if not durable:
            # Nothing needs to survive a power cut.
            options |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
        command = [programs / "postgres", "-D", folder / "data"]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with log.open("ab") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, **_as(user))
        server = PostgresServer(process, port)
        if _is_up(server):
            return server
        # Somebody else may have taken the port meanwhile: another one, then.
        _stop(server)
    raise ServerUnavailableError(f"the PostgreSQL server does not start: {log.read_text()[-2000:]}")


def _is_up(server: PostgresServer) -> bool:
    import psycopg

    until = time.monotonic() + _START_SEC
    while server.process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(psycopg.OperationalError):
            server.run("SELECT 1")
            return True
        time.sleep(0.02)
    return False


def _stop(server: PostgresServer) -> None:
    # The fast shutdown, which ends open connections.
    server.process.send_signal(signal.SIGINT)
    try:
        server.process.wait(_STOP_SEC)
    except subprocess.TimeoutExpired:
        server.process.send_signal(signal.SIGQUIT)
        server.process.wait()

"""Runs in the ledger: the lease that a run holds while one of its steps works."""

from __future__ import annotations

import sqlalchemy as sa

from embed_pipeline.ledger.database import Database
from embed_pipeline.ledger.media import insert_new
from embed_pipeline.ledger.tables import run

# By then nobody asks any more whether a run lives.
_KEPT_SEC = 30 * 86400.0


class Runs:
    """Runs of all pipelines that work, and those whose process died while they did.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def renew(self, name: str, run_id: str, *, lease_sec: float) -> None:
        """Record that a run works.

        Args:
            name: The pipeline.
            run_id: The run.
            lease_sec: Seconds after which it counts as dead unless this is called again.
        """
        with self._database.write() as (connection, now):
            until = now + lease_sec
            known = connection.execute(sa.update(run).where(run.c.run_id == run_id).values(lease_until=until))
            if known.rowcount == 0:
                connection.execute(sa.delete(run).where(run.c.pipeline == name, run.c.lease_until < now - _KEPT_SEC))
                new = {"run_id": run_id, "pipeline": name, "lease_until": until}
                connection.execute(insert_new(connection, run).values(new))

    def end(self, run_id: str) -> None:
        """Record that a run does not work any more, or not for now."""
        with self._database.write() as (connection, _):
            connection.execute(sa.delete(run).where(run.c.run_id == run_id))

    def leases(self, name: str) -> dict[str, bool]:
        """Return the runs of a pipeline that have not ended their lease, and whether it is still live."""
        with self._database.read() as (connection, now):
            found = connection.execute(sa.select(run.c.run_id, run.c.lease_until).where(run.c.pipeline == name))
            return {run_id: lease_until > now for run_id, lease_until in found}

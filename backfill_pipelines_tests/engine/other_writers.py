"""Other programs that write `client_leads` while a load is under way: the webhook, and somebody's bulk job.

Belongs here: what they do, as such programs do it, each on a connection of its own. Does not belong here: assertions.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from types import TracebackType

import psycopg
from sqlalchemy import Engine

from backfill_pipelines_tests.engine.client_leads_rows import WORKSPACE


class Writer(threading.Thread):
    """Writes over and over until it is told to stop; keeps what went wrong."""

    def __init__(self, engine: Engine, *, seed: int) -> None:
        super().__init__(daemon=True)
        fairy = engine.raw_connection()
        self._driver = fairy.driver_connection
        fairy.detach()
        self._stopped = threading.Event()
        self._random = random.Random(seed)
        self.error: BaseException | None = None
        self.at_work = threading.Event()
        self.deadlocks = 0
        self.rounds = 0

    def run(self) -> None:
        driver = self._driver
        try:
            assert isinstance(driver, psycopg.Connection)
            driver.autocommit = True
            while not self._stopped.is_set():
                try:
                    self.write(driver)
                except psycopg.errors.DeadlockDetected:
                    self.deadlocks += 1
                self.rounds += 1
                self.at_work.set()
        except BaseException as error:  # noqa: BLE001 - the test tells it
            self.error = error
        finally:
            self._driver.close()

    def write(self, driver: psycopg.Connection) -> None:
        raise NotImplementedError

    def __enter__(self) -> Writer:
        self.start()
        self.at_work.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self.join()


class Webhook(Writer):
    """SELECT, then INSERT or UPDATE, in two statements; delivered again where the INSERT meets a row."""

    def __init__(self, engine: Engine, emails: Sequence[str], *, seed: int) -> None:
        super().__init__(engine, seed=seed)
        self._emails = emails
        self.written: dict[str, str] = {}
        """The company that it has last put down for an address."""

    def write(self, driver: psycopg.Connection) -> None:
        email = self._random.choice(self._emails)
        company = f"{self.name} {self.rounds}"
        found = driver.execute(
            "SELECT id FROM client_leads WHERE workspace_name = %s AND lead_email = %s", (WORKSPACE, email)
        ).fetchone()
        if found is None:
            try:
                driver.execute(
                    "INSERT INTO client_leads (workspace_name, lead_email, company, interested)"
                    " VALUES (%s, %s, %s, true)",
                    (WORKSPACE, email, company),
                )
            except psycopg.errors.UniqueViolation:
                return
        else:
            driver.execute(
                "UPDATE client_leads SET company = %s, updated_at = now() WHERE id = %s", (company, found[0])
            )
        self.written[email] = company


class BulkJob(Writer):
    """Two updates of rows in any order, in one transaction."""

    def __init__(self, engine: Engine, emails: Sequence[str], *, seed: int) -> None:
        super().__init__(engine, seed=seed)
        self._emails = emails

    def write(self, driver: psycopg.Connection) -> None:
        with driver.transaction():
            for email in self._random.sample(list(self._emails), 3):
                driver.execute("UPDATE client_leads SET notes = %s WHERE lead_email = %s", (str(self.rounds), email))

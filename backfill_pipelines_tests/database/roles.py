"""Roles of a database that may do less than its owner, for tests of what the user is told.

Belongs here: making such roles and engines that act as them. Does not belong here: assertions.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from sqlalchemy import text


@contextmanager
def another_role(owner: sqlalchemy.Engine, *, options: str = "") -> Iterator[tuple[str, sqlalchemy.Engine]]:
    """A new role without a privilege, and an engine on the owner's database that acts as it."""
    name = f"role_{uuid.uuid4().hex}"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} {options}"))
    engine = sqlalchemy.create_engine(owner.url, hide_parameters=True)

    # The test server lets everybody in as its superuser: the session becomes the role right after.
    @sqlalchemy.event.listens_for(engine, "connect")
    def become(driver: object, _: object) -> None:
        driver.execute(f"SET SESSION AUTHORIZATION {name}")  # type: ignore[attr-defined]
        driver.commit()  # type: ignore[attr-defined]

    try:
        yield name, engine
    finally:
        engine.dispose()
        with owner.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {name} CASCADE"))
            connection.execute(text(f"DROP ROLE {name}"))

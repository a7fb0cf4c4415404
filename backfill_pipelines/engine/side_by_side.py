"""Several things at once, with one error.

Belongs here: waiting for coroutines so that a failure reads as if they had been awaited one by one. Does not belong
here: how many at once (the callers', and the vendors' quotas).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def side_by_side(*works: Coroutine[Any, Any, Result]) -> list[Result]:
    """Do several things at once; where one fails the others are cancelled, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]

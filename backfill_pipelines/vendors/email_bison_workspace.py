"""Reading one workspace of Email Bison so that it is proven to be that workspace's data.

No list response of the vendor says whose it is, and the current workspace of a super-admin token is mutable state of
its *user*: a switch by any other session, a person's browser included, changes what our next request returns. So every
page is read between two answers of `GET /users` that both name the workspace.

Belongs here: those two ways of reading, by the client's own token and by the instance's admin token. Does not belong
here: checks that need rows of other workspaces (the backfill has them).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

from backfill_pipelines.errors import BackfillError, ConfigurationError, TransientError
from backfill_pipelines.vendors.email_bison import EmailBison, Page

_Answer = TypeVar("_Answer")

CONTENDED_AFTER = 5
"""Answers in a row that had to be thrown away before the partition gives up: somebody else keeps switching."""


class WorkspaceReader(Protocol):
    """One workspace, read so that every answer is proven to be its own."""

    async def page(self, path: str, *, number: int, filters: Mapping[str, str] | None = None) -> Page:
        """One page of a list."""

    async def record(self, path: str) -> Mapping[str, Any] | None:
        """One record, None where there is none."""

    async def prove(self) -> None:
        """Raise unless responses come from the workspace right now; call it before the first and after the last."""


class OwnTokenReader:
    """By the client's own `api-user` token, which the vendor binds to the workspace that it was created in."""

    def __init__(self, bison: EmailBison, *, workspace_id: int, partition_key: str) -> None:
        self._bison = bison
        self._workspace_id = workspace_id
        self._partition_key = partition_key

    async def page(self, path: str, *, number: int, filters: Mapping[str, str] | None = None) -> Page:
        """One page of a list."""
        return await self._bison.page(path, number=number, filters=filters)

    async def record(self, path: str) -> Mapping[str, Any] | None:
        """One record, None where there is none."""
        return await self._bison.record(path)

    async def prove(self) -> None:
        """Raise `ConfigurationError("wrong_workspace")` unless `/users` names the registry's workspace."""
        current = await self._bison.current_workspace()
        if current != self._workspace_id:
            raise ConfigurationError(
                "wrong_workspace",
                f"The Email Bison token of client {self._partition_key} belongs to workspace {current}, but the "
                f"registry says {self._workspace_id}; correct email_bison.token or workspace_id. Nothing was written.",
            )


class AdminReader:
    """By the instance's admin token: switch, check, read, check again, and throw away what lies between two answers.

    The caller holds the instance's lock, so that at least no other process of ours switches meanwhile.
    """

    def __init__(self, bison: EmailBison, *, workspace_id: int) -> None:
        self._bison = bison
        self._workspace_id = workspace_id
        self._proven = False
        """Whether the newest answer of `/users`, after the newest request, named the workspace."""

    async def page(self, path: str, *, number: int, filters: Mapping[str, str] | None = None) -> Page:
        """One page of a list, read again until both answers around it name the workspace."""
        return await self._between_checks(lambda: self._bison.page(path, number=number, filters=filters))

    async def record(self, path: str) -> Mapping[str, Any] | None:
        """One record, read in the same way."""
        return await self._between_checks(lambda: self._bison.record(path))

    async def prove(self) -> None:
        """Be in the workspace, switching where need be."""
        await self._between_checks(_nothing)

    async def _between_checks(self, read: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Read between two checks; the check after one answer is the check before the next.

        Raises `TransientError("workspace_contended")` after five answers in a row were thrown away.
        """
        for _ in range(CONTENDED_AFTER):
            if not self._proven:
                await self._bison.switch_workspace(self._workspace_id)
                if await self._bison.current_workspace() != self._workspace_id:
                    continue
            self._proven = False
            answer, refusal = await _outcome(read)
            if await self._bison.current_workspace() != self._workspace_id:
                continue  # neither the answer nor a refusal says anything about our workspace
            self._proven = True
            if refusal is not None:
                raise refusal
            return cast("_Answer", answer)
        raise TransientError(
            "workspace_contended",
            f"Somebody else keeps switching the workspace of the instance's admin_token: {CONTENDED_AFTER} answers in "
            f"a row could not be proven to be of workspace {self._workspace_id}. Give the client a token of its own: "
            "backfill clients mint-token KEY.",
        )


async def _outcome(read: Callable[[], Awaitable[_Answer]]) -> tuple[_Answer | None, BackfillError | None]:
    try:
        return await read(), None
    except BackfillError as refusal:
        return None, refusal


async def _nothing() -> None:
    return None

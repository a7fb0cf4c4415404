"""Misbehaviour on request: which requests it strikes and what it does, whatever the vendor.

Belongs here: the trigger (which request, the how-manieth, how likely), the faults every vendor can show, and the
reading of faults from a file or from HTTP. Does not belong here: faults that only one vendor can show; a vendor names
the kinds it understands and applies them itself.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

FaultKinds = Mapping[str, Mapping[str, type[int] | type[float] | type[str]]]
"""Kind of fault -> the parameters it takes -> their type."""

SHARED_KINDS: FaultKinds = {
    "status": {"status": int},
    "rate_limited": {"retry_after": int},
    "reset": {},
    "lost_reply": {},
    "truncated_json": {},
    "cut_body": {},
    "slow_body": {"seconds": float},
    "latency": {"seconds": float},
}
"""`status` answers with an HTML error page; `rate_limited` with the vendor's own 429; `reset` drops the connection
before anything happens and `lost_reply` after the request took effect; `truncated_json` is complete HTTP around half a
document; `cut_body` ends the connection in the middle of the body; `slow_body` and `latency` take `seconds` longer."""


class FaultFormatError(ValueError):
    """A fault was described in a way the sandbox does not understand; the text says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as triggers and counters see it.

    `account` is what the vendor counts a quota by (an Email Bison instance), `workspace` the tenant inside it that the
    caller is entitled to, `client` that tenant's key in the registry; each is empty where it does not apply. `path` is
    below the vendor's base URL, `template` the same with ids replaced by names.
    """

    vendor: str
    account: str
    workspace: str
    client: str
    method: str
    path: str
    template: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """Which requests something happens to.

    Text fields are shell patterns (`/replies*`); `workspace` matches the workspace's id or its client's key. Of the
    matching requests those from number `nth` on (counted from 1) are struck, `count` of them at most, each with
    `probability`. Without `count`, a trigger with `nth` strikes once and one without strikes for ever.
    """

    vendor: str = "*"
    account: str = "*"
    workspace: str = "*"
    method: str = "*"
    path: str = "*"
    nth: int | None = None
    count: int | None = None
    probability: float = 1.0

    def matches(self, call: Call) -> bool:
        """Whether the request is one of those that are counted."""
        return (
            fnmatchcase(call.vendor, self.vendor)
            and fnmatchcase(call.account, self.account)
            and (fnmatchcase(call.workspace, self.workspace) or fnmatchcase(call.client, self.workspace))
            and fnmatchcase(call.method, self.method)
            and fnmatchcase(call.path, self.path)
        )

    @property
    def most(self) -> int | None:
        """How many requests are struck at most; None: no end."""
        return 1 if self.count is None and self.nth is not None else self.count


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour: its kind, when it strikes, and the parameters of its kind."""

    kind: str
    trigger: Trigger = field(default_factory=Trigger)
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)

    def number(self, name: str, default: float) -> float:
        """A numeric parameter."""
        return float(self.parameters.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        """A textual parameter."""
        return str(self.parameters.get(name, default))


class ArmedTrigger:
    """A trigger with its counts: how many requests matched so far and how many were struck."""

    def __init__(self, trigger: Trigger, *, seed: str) -> None:
        self._trigger = trigger
        self._random = random.Random(seed)  # noqa: S311 # which requests are struck
        self._matched = 0
        self._struck = 0

    def strikes(self, call: Call) -> bool:
        """Count the request and say whether it is struck."""
        trigger = self._trigger
        if (trigger.most is not None and self._struck >= trigger.most) or not trigger.matches(call):
            return False
        self._matched += 1
        if self._matched < (trigger.nth or 1) or self._random.random() >= trigger.probability:
            return False
        self._struck += 1
        return True


class FaultBook:
    """The faults and hooks in force. Safe to change while requests are served."""

    def __init__(
        self, *, seed: int, kinds: FaultKinds, check: Callable[[Fault], None], faults: Sequence[Fault] = ()
    ) -> None:
        self.kinds = kinds
        self._check = check
        self._seed = seed
        self._initial = tuple(faults)
        self._lock = threading.Lock()
        self._faults: list[tuple[ArmedTrigger, Fault]] = []
        self._hooks: list[tuple[ArmedTrigger, Callable[[], None]]] = []
        self.add(self._initial)

    def add(self, faults: Sequence[Fault]) -> None:
        """Arm more faults; their counts start now. Raises FaultFormatError, and arms none, where one makes no sense."""
        for fault in faults:
            self._check(fault)
        with self._lock:
            for fault in faults:
                seed = f"{self._seed}:{len(self._faults)}:{fault.kind}"
                self._faults.append((ArmedTrigger(fault.trigger, seed=seed), fault))

    def after(self, trigger: Trigger, action: Callable[[], None]) -> None:
        """Call `action` after each request the trigger strikes, before its answer is sent, in the server's thread."""
        with self._lock:
            self._hooks.append((ArmedTrigger(trigger, seed=f"{self._seed}:hook:{len(self._hooks)}"), action))

    def clear(self) -> None:
        """Take all faults and hooks away."""
        with self._lock:
            self._faults.clear()
            self._hooks.clear()

    def reset(self) -> None:
        """Back to the faults the sandbox was started with, their counts at zero."""
        self.clear()
        self.add(self._initial)

    def in_force(self) -> list[Fault]:
        """The faults as they were armed, spent ones too."""
        with self._lock:
            return [fault for _, fault in self._faults]

    def striking(self, call: Call) -> tuple[Fault, ...]:
        """Count the request for every fault; those that strike it, in the order they were armed."""
        with self._lock:
            return tuple(fault for armed, fault in self._faults if armed.strikes(call))

    def actions_after(self, call: Call) -> list[Callable[[], None]]:
        """Count the request for every hook; the actions due after it."""
        with self._lock:
            return [action for armed, action in self._hooks if armed.strikes(call)]


def parse_faults(document: object, kinds: FaultKinds) -> list[Fault]:
    """Faults from a decoded YAML or JSON document: a list of them, or a mapping with that list under `faults`.

    Each is a flat mapping: `kind`, any field of `Trigger`, and the parameters of its kind. Raises FaultFormatError.
    """
    entries = document.get("faults") if isinstance(document, Mapping) else document
    if not isinstance(entries, list):
        raise FaultFormatError("faults are a list, or a mapping with a list under 'faults'")
    return [_parse_fault(number, entry, kinds) for number, entry in enumerate(entries, start=1)]


def read_faults_file(path: Path, kinds: FaultKinds) -> list[Fault]:
    """Faults from a YAML or JSON file. Raises FaultFormatError, also where the file cannot be read or parsed."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FaultFormatError(f"{path} cannot be read as YAML or JSON: {error}") from error
    return parse_faults(document, kinds)


def describe_fault(fault: Fault) -> dict[str, object]:
    """A fault in the form `parse_faults` reads, without the trigger's defaults."""
    plain = Trigger()
    chosen = {
        entry.name: getattr(fault.trigger, entry.name)
        for entry in fields(Trigger)
        if getattr(fault.trigger, entry.name) != getattr(plain, entry.name)
    }
    return {"kind": fault.kind, **chosen, **fault.parameters}


_TRIGGER_TYPES: Mapping[str, type[int] | type[float] | type[str]] = {
    **{entry.name: str for entry in fields(Trigger)},
    "nth": int,
    "count": int,
    "probability": float,
}


def _parse_fault(number: int, entry: object, kinds: FaultKinds) -> Fault:
    if not isinstance(entry, Mapping):
        raise FaultFormatError(f"fault {number} is not a mapping")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise FaultFormatError(f"fault {number} has an unknown kind; known are {', '.join(sorted(kinds))}")
    types = {**_TRIGGER_TYPES, **kinds[kind]}
    values: dict[str, str | int | float] = {}
    for name, value in entry.items():
        if name == "kind":
            continue
        if name not in types:
            raise FaultFormatError(
                f"fault {number} ({kind}) has an unknown key; allowed are {', '.join(sorted(types))}"
            )
        try:
            values[name] = types[name](value)
        except (TypeError, ValueError):
            raise FaultFormatError(f"fault {number} ({kind}) needs a number as {name!r}") from None
    return Fault(
        kind=kind,
        trigger=Trigger(**{name: values[name] for name in _TRIGGER_TYPES & values.keys()}),  # type: ignore[arg-type] # converted above
        parameters={name: value for name, value in values.items() if name not in _TRIGGER_TYPES},
    )


__all__ = [
    "SHARED_KINDS",
    "ArmedTrigger",
    "Call",
    "Fault",
    "FaultBook",
    "FaultFormatError",
    "FaultKinds",
    "Trigger",
    "describe_fault",
    "parse_faults",
    "read_faults_file",
]

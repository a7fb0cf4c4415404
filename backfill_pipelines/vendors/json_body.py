"""From a body's bytes to JSON, as leniently as vendors need and no more.

Belongs here: decoding. Does not belong here: what a missing or wrong body means (`outcomes.py`), shapes of records.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson


class UndecodableBodyError(ValueError):
    """The body is no JSON."""


def decode_json(content: bytes) -> Any:
    """Decode a body.

    The fast strict decoder first. What it refuses is tried again with control characters allowed inside strings (Email
    Bison sends raw ones in e-mail texts) and with halves of surrogate pairs (a text cut inside an emoji), which become
    U+FFFD, because neither Postgres nor a JSON encoder takes them. NUL characters stay for the caller to judge.
    Raises UndecodableBodyError, whose text holds nothing of the body.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return _without_lone_surrogates(json.loads(content, strict=False, parse_constant=_refuse_constant))
    except (ValueError, RecursionError):
        pass
    raise UndecodableBodyError("the body is no JSON")


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")


def _without_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_lone_surrogates(name): _without_lone_surrogates(item) for name, item in value.items()}
    return value

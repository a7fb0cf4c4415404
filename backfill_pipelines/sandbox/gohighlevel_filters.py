"""The filters of the fake GoHighLevel's search: which fields, operators, groups and values there are.

Belongs here: refusing a filter that the vendor's page does not know, and which contacts one selects. Does not belong
here: pages and order (gohighlevel_searching.py).

Source: the vendor's page on searching contacts. A filter on something unknown is a loud 400 (highlevel-api-docs#279);
the keys of `range` are `gte`, `lte`, `gt` and `lt`, or `from` and `to`, as its copies disagree. Of the many fields that
the page lists those are here whose values the sandbox has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelContact
from backfill_pipelines.sandbox.gohighlevel_rows import bad_request, unprocessable
from backfill_pipelines.sandbox.gohighlevel_state import LocationState

LONGEST_VALUE = 75
TRUNCATED = 10
"""Filters of a group that count where a location looks only at the first ones."""
_EXACT = frozenset({"eq", "not_eq"})
_PRESENCE = frozenset({"exists", "not_exists"})
_CONTAINS = frozenset({"contains", "not_contains"})
_ALL = _EXACT | _PRESENCE | _CONTAINS

Values = tuple[str | int, ...]


class _Field(NamedTuple):
    operators: frozenset[str]
    read: Callable[[GoHighLevelContact], Values]


def _texts(*values: str | None) -> Values:
    return tuple(value.lower() for value in values if value)


_FIELDS: Mapping[str, _Field] = {
    "id": _Field(_EXACT, lambda contact: (contact.id,)),
    "email": _Field(_EXACT | _PRESENCE, lambda contact: _texts(contact.email)),
    "phone": _Field(_ALL, lambda contact: _texts(contact.phone)),
    "companyName": _Field(_ALL, lambda contact: _texts(contact.company_name)),
    "firstNameLowerCase": _Field(_ALL, lambda contact: _texts(contact.first_name)),
    "lastNameLowerCase": _Field(_ALL, lambda contact: _texts(contact.last_name)),
    "dateAdded": _Field(frozenset({"range"}) | _PRESENCE, lambda contact: (contact.date_added,)),
    "dateUpdated": _Field(frozenset({"range"}) | _PRESENCE, lambda contact: (contact.date_added,)),
}
_BOUNDS: Mapping[str, Callable[[int, int], bool]] = {
    "gte": lambda value, bound: value >= bound,
    "from": lambda value, bound: value >= bound,
    "gt": lambda value, bound: value > bound,
    "lte": lambda value, bound: value <= bound,
    "to": lambda value, bound: value <= bound,
    "lt": lambda value, bound: value < bound,
}


class Selection(NamedTuple):
    """What filters select: a test, and where it can be told without looking at all, the numbers to test."""

    test: Callable[[GoHighLevelContact], bool]
    numbers: frozenset[int] | None


EVERYTHING = Selection(lambda _contact: True, None)


def selection_of(filters: object, state: LocationState) -> Selection:
    """What a body's `filters` select, all of which must hold. Raises RefusalError."""
    if not isinstance(filters, list):
        raise unprocessable("filters must be an array")
    return _all_of([_selection(each, state) for each in filters])


def _selection(entry: object, state: LocationState) -> Selection:
    if not isinstance(entry, dict):
        raise unprocessable("each value in nested property filters must be an object")
    return _group(entry, state) if "group" in entry else _leaf(entry, state)


def _group(entry: Mapping[str, Any], state: LocationState) -> Selection:
    kind, filters = entry["group"], entry.get("filters")
    if kind not in ("OR", "AND") or not isinstance(filters, list) or not filters:
        raise unprocessable("group must be one of the following values: OR, AND", "filters should not be empty")
    habits = state.seeded.habits
    if habits.or_groups == "refused":
        raise bad_request("filter groups are not supported")
    if len(filters) > habits.filters_a_group:
        raise unprocessable(f"filters must contain no more than {habits.filters_a_group} elements")
    parts = [_selection(each, state) for each in filters]
    if kind == "AND":
        return _all_of(parts)
    if habits.or_groups == "ignored":
        return EVERYTHING
    if habits.or_groups == "truncated":
        parts = parts[:TRUNCATED]
    numbers: frozenset[int] | None = frozenset()
    for part in parts:
        numbers = None if numbers is None or part.numbers is None else numbers | part.numbers
    return Selection(lambda contact: any(part.test(contact) for part in parts), numbers)


def _all_of(parts: Sequence[Selection]) -> Selection:
    if not parts:
        return EVERYTHING
    told = [part.numbers for part in parts if part.numbers is not None]
    numbers = frozenset.intersection(*told) if told else None
    return Selection(lambda contact: all(part.test(contact) for part in parts), numbers)


def _leaf(entry: Mapping[str, Any], state: LocationState) -> Selection:
    name, operator = entry.get("field"), entry.get("operator")
    field = _FIELDS.get(name) if isinstance(name, str) else None
    if field is None:
        raise bad_request("invalid field")
    if not isinstance(operator, str) or operator not in field.operators:
        raise bad_request(f"invalid operator for the field {name}")
    if operator in _PRESENCE:
        if "value" in entry:
            raise bad_request(f"{operator} takes no value")
        wanted = operator == "exists"
        return Selection(lambda contact: bool(field.read(contact)) is wanted, None)
    if operator == "range":
        return Selection(_within(entry.get("value"), field), None)
    value = _value(entry.get("value"), operator)
    exact = name == "email" and state.seeded.habits.capitals_differ
    values = _addresses(state) if name == "email" else field.read
    wanted_value = value if name == "id" or exact else value.lower()
    match operator:
        case "eq":
            return Selection(
                lambda contact: wanted_value in values(contact),
                _numbers(name, wanted_value.lower() if exact else wanted_value, state),
            )
        case "not_eq":
            return Selection(lambda contact: wanted_value not in values(contact), None)
        case "contains":
            return Selection(lambda contact: any(wanted_value in str(each) for each in values(contact)), None)
        case _:
            return Selection(lambda contact: all(wanted_value not in str(each) for each in values(contact)), None)


def _addresses(state: LocationState) -> Callable[[GoHighLevelContact], Values]:
    """What a filter on `email` compares with, by the location's habits."""
    any_address = state.seeded.habits.email_equality == "any"
    exact = state.seeded.habits.capitals_differ

    def values(contact: GoHighLevelContact) -> Values:
        addresses = (contact.email, *(contact.additional_emails if any_address else ()))
        return tuple(each for each in addresses if each is not None) if exact else _texts(*addresses)

    return values


def _numbers(name: object, value: str, state: LocationState) -> frozenset[int] | None:
    if name == "email":
        return frozenset(state.numbers_with(value))
    if name == "id":
        number = state.number_of(value)
        return frozenset() if number is None else frozenset({number})
    return None


def _value(value: object, operator: str) -> str:
    """A text, a number or a boolean: an array is none of them, and there is no operator "in"."""
    if not isinstance(value, str | int | float):
        raise bad_request(f"invalid value for the operator {operator}")
    text = str(value)
    if len(text) > LONGEST_VALUE:
        raise bad_request(f"value must be shorter than or equal to {LONGEST_VALUE} characters")
    if operator in _CONTAINS and not text.replace(" ", "").isalnum():
        raise bad_request("special characters are not allowed")
    return text


def _within(value: object, field: _Field) -> Callable[[GoHighLevelContact], bool]:
    if not isinstance(value, dict) or not value or not _BOUNDS.keys() >= value.keys():
        raise bad_request("invalid value for the operator range")
    bounds = [(_BOUNDS[name], _milliseconds(bound)) for name, bound in value.items()]
    return lambda contact: all(holds(int(field.read(contact)[0]), bound) for holds, bound in bounds)


def _milliseconds(bound: object) -> int:
    if isinstance(bound, int) and not isinstance(bound, bool):
        return bound
    try:
        return round(datetime.fromisoformat(str(bound)).timestamp() * 1000)
    except ValueError:
        raise bad_request("invalid value for the operator range") from None


__all__ = ["EVERYTHING", "LONGEST_VALUE", "Selection", "selection_of"]

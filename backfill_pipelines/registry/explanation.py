"""What is wrong with the file, in one sentence without a value.

Belongs here: the words for a failed validation, and suggestions for a misspelt name. Does not belong here: the rules
themselves (the models'), and places in the file (`source`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry.source import PLAIN_WORDS, Path, SourceDocument, sentence

_OUR_CODES = {"invalid_key", "registry_invalid", "unknown_key", "unknown_vendor"}
_MISTAKES = {
    "string_type": "must be text; put the value in quotes",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping of keys and values",
    "dict_type": "must be a mapping of keys and values",
    "tuple_type": "must be a list, each entry after a hyphen",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


def explain(error: ValidationError, document: SourceDocument, prefix: Path = ()) -> ConfigurationError:
    """The first mistake by line. `prefix` is where the validated data stands in the file."""
    return _explained(_mistakes(error, prefix), document)


def first_mistake(
    error: ValidationError, document: SourceDocument, prefix: Path, *, counts: Callable[[Path], bool]
) -> ConfigurationError | None:
    """The first mistake by line of those at paths that count, or None."""
    mistakes = [(path, details) for path, details in _mistakes(error, prefix) if counts(path)]
    return _explained(mistakes, document) if mistakes else None


def _mistakes(error: ValidationError, prefix: Path) -> list[tuple[Path, ErrorDetails]]:
    """Each mistake with its path: of an unknown key that of the key."""
    return [
        ((*prefix, *details["loc"], *details.get("ctx", {}).get("path", ())), details)
        for details in error.errors(include_url=False, include_input=False)
    ]


def _explained(mistakes: list[tuple[Path, ErrorDetails]], document: SourceDocument) -> ConfigurationError:
    path, details = min(mistakes, key=lambda mistake: document.line(mistake[0]))
    code, subject, problem = _words(details, document, path)
    return ConfigurationError(code, sentence(f"{document.file}, line {document.line(path)}: {subject} {problem}"))


def _words(details: ErrorDetails, document: SourceDocument, path: Path) -> tuple[str, str, str]:
    context = details.get("ctx", {})
    if details["type"] in _OUR_CODES:
        subject = document.describe(path[:-1] if "path" in context else path)
        return details["type"], subject, str(context["problem"])
    if details["type"] == "missing":
        return "missing_key", document.describe(path[:-1]), f"has no {path[-1]}; add that key"
    if details["type"] == "extra_forbidden":
        return "unknown_key", document.describe(path[:-1]), "has an unknown key"
    problem = _MISTAKES.get(details["type"], "has a value that cannot be used").format_map(context)
    return "registry_invalid", document.describe(path), problem


def unknown_key(
    code: str, noun: str, key: str, value: object, known: Collection[str], *, within: Path = ()
) -> PydanticCustomError:
    """The mistake of a key that nobody knows, with what was probably meant. `within` leads to its mapping.

    In `{token:abc123}` or `{token, abc123}` YAML sees a key where somebody wrote a token, so a key that does not look
    like one is not shown.
    """
    close = closest(key, known, 1)
    if _NAME.fullmatch(key) and close:
        problem = f"has an unknown {noun}, {key}; did you mean {close[0]}?"
    elif PLAIN_WORDS.fullmatch(key) and value is not None:
        problem = f"has an unknown {noun}, {key}; known are {', '.join(known)}"
    elif ":" in key:
        problem = f"has an unknown {noun} with a colon in it; put a space after the colon"
    else:
        problem = f"has an unknown {noun} (not shown, it may be a value); known are {', '.join(known)}"
    return PydanticCustomError(code, "{problem}", {"problem": problem, "path": (*within, key)})


def closest(name: str, known: Collection[str], count: int) -> list[str]:
    """Up to `count` known names that resemble this one, the best first."""
    spelt = name.lower().replace("-", "_")
    by_spelling = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    return [by_spelling[match] for match in difflib.get_close_matches(spelt, by_spelling, n=count, cutoff=0.6)]

"""Values that may name environment variables, read at the moment of use.

Belongs here: texts with `${NAME}` in them, by what they must be once they are read. Does not belong here: `.env` files,
and which values a client has.

Reading late lets the other clients run while one client's variable is unset. `$${` stands for a literal `${`. Values,
from the file and from the environment, lose the white space around them: a pasted token often ends in a line break.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

import phonenumbers
from pydantic import GetCoreSchemaHandler, SecretStr, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry.source import Origin, SourceText

_PART = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<malformed>\$\{)")
_NOWHERE = Origin(file="the registry", line=1, owner="The registry", key="a value")


class InvalidValueError(ValueError):
    """What is wrong with a value, without the value: "must be …"."""


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str


@dataclass(frozen=True, repr=False)
class Configured:
    """A text of the registry, perhaps with variables. Its repr shows their names and never the text."""

    _parts: tuple[str | _Variable, ...]
    _environ: Mapping[str, str] = field(compare=False)
    _origin: Origin = field(compare=False)

    @classmethod
    def from_text(cls, text: str, *, environ: Mapping[str, str], origin: Origin = _NOWHERE) -> Self:
        """Take `${NAME}` apart. Raises InvalidValueError where that, or a text without variables, is not valid."""
        made = cls(_split(text.strip()), environ, origin)
        if not made.variables:
            made._read()
        return made

    @classmethod
    def literal(cls, text: str) -> Self:
        """A value that is no template, whatever it looks like, and is kept as it is."""
        return cls((text,), {}, _NOWHERE)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it is made of, in order."""
        return tuple(part.name for part in self._parts if isinstance(part, _Variable))

    def owned_by(self, owner: str) -> Self:
        """The same value on behalf of somebody else, whom its errors will name: "Client kim-wallace"."""
        return replace(self, _origin=replace(self._origin, owner=owner))

    def identity(self) -> str:
        """What makes two values the same: the text where it can be read now, else the template. Never show it."""
        try:
            return self._resolved()
        except ConfigurationError:
            return "".join(part if isinstance(part, str) else f"${{{part.name}}}" for part in self._parts)

    def _resolved(self) -> str:
        try:
            return self._read()
        except InvalidValueError as error:
            raise self._origin.error("registry_invalid", str(error)) from None

    def _read(self) -> str:
        text = "".join(part if isinstance(part, str) else self._variable(part.name) for part in self._parts)
        return self._checked(text)

    def _variable(self, name: str) -> str:
        value = self._environ.get(name, "").strip()
        if not value:
            origin = self._origin
            raise ConfigurationError(
                "missing_variable",
                f"{origin.owner}: environment variable {name} is not set; set it, or change {origin.key} "
                f"in {origin.file}, line {origin.line}.",
            )
        return value

    def _checked(self, text: str) -> str:
        """The text as it will be used. Raises InvalidValueError."""
        if not text:
            msg = "must not be empty"
            raise InvalidValueError(msg)
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}(variables={list(self.variables)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept a text; the validation context's `environ` is where its variables are read."""
        # Without a serializer of its own a dump would take the dataclass apart and show the text.
        return core_schema.with_info_plain_validator_function(
            cls._validated, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def _validated(cls, value: object, info: ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "must be text")
        origin = value.origin if isinstance(value, SourceText) else _NOWHERE
        try:
            return cls.from_text(value, environ=(info.context or {}).get("environ", {}), origin=origin)
        except InvalidValueError as error:
            raise PydanticCustomError("registry_invalid", "{problem}", {"problem": str(error)}) from None


class ConfiguredText(Configured):
    """A text that is no secret and not empty."""

    def resolve(self) -> str:
        """The text. Raises ConfigurationError: `missing_variable`, `registry_invalid`."""
        return self._resolved()


class ConfiguredSecret(Configured):
    """A token or key."""

    def resolve(self) -> SecretStr:
        """The secret. Raises ConfigurationError: `missing_variable`, `registry_invalid`."""
        return SecretStr(self._resolved())


class ConfiguredUrl(ConfiguredText):
    """An http(s) address without a slash at the end."""

    @property
    def host(self) -> str:
        """`host` or `host:port` in lower case; the scheme's own port is left out."""
        parts = urlsplit(self.resolve())
        host = (parts.hostname or "").lower()
        host = f"[{host}]" if ":" in host else host
        default_port = {"http": 80, "https": 443}[parts.scheme]
        return host if parts.port in {None, default_port} else f"{host}:{parts.port}"

    def _checked(self, text: str) -> str:
        text = super()._checked(text)
        try:
            parts = urlsplit(text)
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or re.search(r"[\s\\]", text):
            msg = "must be an address that begins with https:// or http://"
            raise InvalidValueError(msg)
        if "@" in parts.netloc or parts.query or parts.fragment:
            msg = "must hold neither a user name nor a query; credentials have keys of their own"
            raise InvalidValueError(msg)
        # Host names know no case: two spellings of one instance are one instance.
        return parts._replace(netloc=parts.netloc.lower()).geturl().rstrip("/")


class ConfiguredRegion(ConfiguredText):
    """An ISO 3166 alpha-2 region that libphonenumber knows."""

    def _checked(self, text: str) -> str:
        text = super()._checked(text)
        if text not in phonenumbers.SUPPORTED_REGIONS:
            known = text.upper() in phonenumbers.SUPPORTED_REGIONS
            hint = f"; did you mean {text.upper()}?" if known else ", such as US"
            msg = f"must be a country's two capital letters{hint}"
            raise InvalidValueError(msg)
        return text


class ConfiguredTimezone(ConfiguredText):
    """A time zone of the IANA database."""

    def _checked(self, text: str) -> str:
        text = super()._checked(text)
        try:
            zoneinfo.ZoneInfo(text)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            close = difflib.get_close_matches(text, zoneinfo.available_timezones(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ", such as America/Los_Angeles"
            msg = f"must be a time zone of the IANA database{hint}"
            raise InvalidValueError(msg) from None
        return text


def _split(text: str) -> tuple[str | _Variable, ...]:
    parts: list[str | _Variable] = []
    position = 0
    for found in _PART.finditer(text):
        parts.append(text[position : found.start()])
        position = found.end()
        if found["malformed"]:
            msg = "has a ${…} that does not hold the name of an environment variable; write $${ for a literal ${"
            raise InvalidValueError(msg)
        parts.append(_Variable(found["name"]) if found["name"] else "${")
    parts.append(text[position:])
    return tuple(part for part in parts if part)

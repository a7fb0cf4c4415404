"""Settings of backfills: under their names in `defaults:` or in the entry of a client or workspace, which wins.

Belongs here: one model per backfill, in `SETTINGS_MODELS`, and how two layers become one. Does not belong here: what a
backfill does with a setting.

To give a backfill settings, write its model here, every field with a default, and add it to `SETTINGS_MODELS`: the
section is then checked when the file is read. Without a model in there it is kept as it is, and checked when it is
used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from backfill_pipelines.registry.configured import ConfiguredText, InvalidValueError
from backfill_pipelines.registry.explanation import explain, first_mistake, unknown_key
from backfill_pipelines.registry.source import Path, SourceDocument, SourceMapping, SourceText

Model = TypeVar("Model", bound="BackfillSettings")


class BackfillSettings(BaseModel):
    """What every backfill can be told. Lists arrive as tuples: type them so."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    section: ClassVar[str]
    """The name under which it stands: the backfill's."""

    store_skips: bool = False
    """Store the plan's `skip` rows too, which otherwise are only counted by reason."""

    @classmethod
    def merged(cls, defaults: Self, entry: Self) -> Self:
        """Both layers as one: what the entry sets wins. A model whose lists add up says so by overriding this."""
        return defaults.model_copy(update={name: getattr(entry, name) for name in entry.model_fields_set})

    @model_validator(mode="before")
    @classmethod
    def _knows_all_keys(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise unknown_key("unknown_key", "setting", key, value, list(cls.model_fields))
        return data


class ClientLeadsSettings(BackfillSettings):
    """Settings of `client_leads`: none beyond what every backfill has."""

    section: ClassVar[str] = "client_leads"


class BlockedValues(BaseModel):
    """Values that stand for nobody in particular, so that they group nothing and are no customer's own."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    emails: tuple[str, ...] = (
        "test@test.com",
        "test@example.com",
        "test@gmail.com",
        "email@email.com",
        "email@example.com",
        "none@none.com",
        "noemail@noemail.com",
        "no@email.com",
        "na@na.com",
        "a@a.com",
        "asdf@asdf.com",
    )
    local_parts: tuple[str, ...] = (
        "info",
        "noreply",
        "no-reply",
        "donotreply",
        "support",
        "sales",
        "admin",
        "contact",
        "hello",
        "office",
        "billing",
        "postmaster",
    )
    domains: tuple[str, ...] = ()
    phones: tuple[str, ...] = (*(str(digit) * 10 for digit in range(10)), "1234567890", "0123456789", "9876543210")

    def and_also(self, other: BlockedValues) -> BlockedValues:
        """With what another list says; what it does not say adds nothing."""
        return BlockedValues(
            **{
                name: (*getattr(self, name), *(getattr(other, name) if name in other.model_fields_set else ()))
                for name in BlockedValues.model_fields
            }
        )


class CustomersSettings(BackfillSettings):
    """Settings of `customers`. A client's own blocked values come on top of those of `defaults:`."""

    section: ClassVar[str] = "customers"

    phone_format: Literal["digits", "e164"] = "digits"
    """How `"Customer".phone` is stored: national digits for +1 (elsewhere E.164 without its plus), or E.164."""
    max_group_size: int = Field(default=100, ge=1)
    """More leads than this behind one phone or address group nothing."""
    blocked: BlockedValues = BlockedValues()

    @classmethod
    def merged(cls, defaults: Self, entry: Self) -> Self:
        """Both layers as one; blocked values add up."""
        merged = super().merged(defaults, entry)
        return merged.model_copy(update={"blocked": defaults.blocked.and_also(entry.blocked)})


class LeadHydrationSettings(BackfillSettings):
    """Settings of `lead_hydration`."""

    section: ClassVar[str] = "lead_hydration"

    phone_format: Literal["e164", "digits"] = "e164"
    """How `"Lead".phone` is filled: E.164, or national digits for +1 (elsewhere E.164 without its plus)."""
    reserve: float = Field(default=0.10, ge=0, le=0.9, allow_inf_nan=False)
    """The share of a location's limits at GoHighLevel, in 10 s and a day, that is left to its other programs."""


class AttioPeopleSettings(BackfillSettings):
    """Settings of `attio_people`: none of its own. A key that nobody reads is a mistake."""

    section: ClassVar[str] = "attio_people"


class ConvexUsersSettings(BackfillSettings):
    """Settings of `convex_users`: none of its own."""

    section: ClassVar[str] = "convex_users"


class AttioCompanyOrgsSettings(BackfillSettings):
    """Settings of `attio_company_orgs`."""

    section: ClassVar[str] = "attio_company_orgs"

    min_members: int = Field(default=1, ge=1)
    """Organizations with fewer members, wherever these have addresses, are no company's: 2 leaves personal ones out."""


SETTINGS_MODELS: Final[Mapping[str, type[BackfillSettings]]] = MappingProxyType(
    {
        model.section: model
        for model in (
            ClientLeadsSettings,
            LeadHydrationSettings,
            CustomersSettings,
            AttioPeopleSettings,
            AttioCompanyOrgsSettings,
            ConvexUsersSettings,
        )
    }
)


@dataclass(frozen=True, repr=False)
class SettingsLayer:
    """The settings of one backfill in one place of the file, not read yet: they may name variables."""

    values: Mapping[str, Any]
    environ: Mapping[str, str]
    document: SourceDocument
    path: Path

    def read(self, model: type[Model], *, owner: str) -> Model:
        """The settings with their variables read, on behalf of `owner`. Raises ConfigurationError."""
        try:
            return model.model_validate({key: self._resolved(value, owner) for key, value in self.values.items()})
        except ValidationError as error:
            raise explain(error, self.document, self.path) from None

    def check(self, model: type[BackfillSettings], *, only_known: bool = False) -> None:
        """Raise ConfigurationError for what is wrong without reading a variable; values with variables wait.

        With `only_known` keys that the model lacks pass: the model is not the backfill's own.
        """
        values = {key: value for key, value in self.values.items() if not only_known or key in model.model_fields}
        for text in _texts_with_variables(self.values):
            try:
                ConfiguredText.from_text(text, environ=self.environ, origin=text.origin)
            except InvalidValueError as error:
                raise text.origin.error("registry_invalid", str(error)) from None
        try:
            model.model_validate(values)
        except ValidationError as error:
            mistake = first_mistake(
                error, self.document, self.path, counts=lambda path: not _has_variables(self.document.value(path))
            )
            if mistake is not None:
                raise mistake from None

    def _resolved(self, value: Any, owner: str) -> Any:
        if isinstance(value, Mapping):
            return {key: self._resolved(inner, owner) for key, inner in value.items()}
        if isinstance(value, tuple):
            return tuple(self._resolved(inner, owner) for inner in value)
        if isinstance(value, SourceText) and _has_variables(value):
            text = ConfiguredText.from_text(value, environ=self.environ, origin=value.origin)
            return text.owned_by(owner).resolve()
        return value

    def __repr__(self) -> str:
        return f"SettingsLayer(keys={sorted(self.values)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept any mapping."""
        return core_schema.with_info_plain_validator_function(
            cls._validated, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def _validated(cls, value: object, info: ValidationInfo) -> SettingsLayer:
        if isinstance(value, SettingsLayer):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("dict_type", "must be a mapping")
        environ = (info.context or {}).get("environ", {})
        if isinstance(value, SourceMapping):
            return cls(value, environ, value.document, value.path)
        return cls(value, environ, SourceDocument("the registry", value), ())


def _has_variables(value: object) -> bool:
    return isinstance(value, str) and "${" in value


def _texts_with_variables(value: object) -> Iterator[SourceText]:
    if isinstance(value, SourceText) and _has_variables(value):
        yield value
    elif isinstance(value, Mapping | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_with_variables(inner)

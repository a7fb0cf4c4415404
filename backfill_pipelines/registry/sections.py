"""What can stand in the registry's file: one model per section.

Belongs here: keys, types and the rules of one value. Does not belong here: rules between entries (`loading`), and
look-ups (`registry`). A key with nothing after its colon counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from backfill_pipelines.registry.configured import (
    ConfiguredRegion,
    ConfiguredSecret,
    ConfiguredText,
    ConfiguredTimezone,
    ConfiguredUrl,
)
from backfill_pipelines.registry.explanation import unknown_key
from backfill_pipelines.registry.partitions import MAXIMUM_KEY_LENGTH, is_partition_key, partition_key_for
from backfill_pipelines.registry.settings import SettingsLayer
from backfill_pipelines.registry.tables import KNOWN_COLUMNS

Value = TypeVar("Value")


def _frozen(value: dict[str, Value]) -> Mapping[str, Value]:
    return MappingProxyType(dict(value))


def _partition_key(text: str) -> str:
    if is_partition_key(text):
        return str(text)
    suggestion = partition_key_for(text)
    hint = f", such as {suggestion}" if suggestion else ""
    problem = f"must be 1 to {MAXIMUM_KEY_LENGTH} small letters a-z, digits and hyphens{hint}"
    raise PydanticCustomError("invalid_key", "{problem}", {"problem": problem})


PartitionKey = Annotated[str, AfterValidator(_partition_key)]
FrozenMapping = Annotated[dict[str, Value], AfterValidator(_frozen), PlainSerializer(dict)]
PositiveInt = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A mapping of the file: strict, frozen, and without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    unknown_code: ClassVar[str] = "unknown_key"
    key_noun: ClassVar[str] = "key"

    @model_validator(mode="before")
    @classmethod
    def _knows_all_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key, value in data.items():
            if key not in known:
                raise unknown_key(cls.unknown_code, cls.key_noun, key, value, known)
        return {key: value for key, value in data.items() if value is not None}


class Defaults(Section):
    """What holds where an entry says nothing else, and the engine's own settings."""

    phone_region: ConfiguredRegion = ConfiguredRegion.literal("US")
    timezone: ConfiguredTimezone = ConfiguredTimezone.literal("UTC")
    max_parallel_clients: PositiveInt = 24
    """Partitions at work at once in one process."""
    retention_days: PositiveInt = 90
    """Age at which the retention job clears personal values from our own schema."""
    client_leads: SettingsLayer | None = None
    lead_hydration: SettingsLayer | None = None
    customers: SettingsLayer | None = None
    attio_people: SettingsLayer | None = None
    attio_company_orgs: SettingsLayer | None = None
    convex_users: SettingsLayer | None = None


class EmailBisonInstance(Section):
    """A server of Email Bison. `admin_token` may switch between its workspaces; clients' own tokens are better."""

    base_url: ConfiguredUrl
    admin_token: ConfiguredSecret | None = None
    requests_per_minute: PositiveInt | None = None

    @property
    def host(self) -> str:
        """What `bison_instance` holds: the host, with its port unless it is the scheme's own, in lower case."""
        return self.base_url.host

    def owned_by(self, owner: str) -> Self:
        """The same instance, whose errors name `owner`: "Client kim-wallace"."""
        admin_token = self.admin_token and self.admin_token.owned_by(owner)
        return self.model_copy(update={"base_url": self.base_url.owned_by(owner), "admin_token": admin_token})


class EmailBisonAccess(Section):
    """A client's workspace on an instance, with its own token where it has one."""

    instance: str
    workspace_id: PositiveInt
    token: ConfiguredSecret | None = None


class GoHighLevelAccess(Section):
    """A client's location."""

    location_id: ConfiguredText
    token: ConfiguredSecret


class LeadRows(Section):
    """A client's rows in `"Lead"`."""

    client_id: ConfiguredText


class Client(Section):
    """A customer of the agency; a partition."""

    key: PartitionKey
    name: ConfiguredText
    email_bison: EmailBisonAccess | None = None
    gohighlevel: GoHighLevelAccess | None = None
    leads: LeadRows | None = None
    phone_region: ConfiguredRegion | None = None
    timezone: ConfiguredTimezone | None = None
    client_leads: SettingsLayer | None = None
    lead_hydration: SettingsLayer | None = None
    customers: SettingsLayer | None = None

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"Client {self.key}"


class ClerkAccess(Section):
    """A product's Clerk instance."""

    secret_key: ConfiguredSecret


class AttioAccess(Section):
    """A product's Attio workspace."""

    api_key: ConfiguredSecret


class ConvexAccess(Section):
    """A product's Convex deployment, and the table, index and field that hold its users' Clerk ids."""

    url: ConfiguredUrl
    deploy_key: ConfiguredSecret
    table: ConfiguredText = ConfiguredText.literal("users")
    index: ConfiguredText = ConfiguredText.literal("by_clerkId")
    id_field: ConfiguredText = ConfiguredText.literal("clerkId")


class Workspace(Section):
    """A product; a partition."""

    key: PartitionKey
    clerk: ClerkAccess | None = None
    attio: AttioAccess | None = None
    convex: ConvexAccess | None = None
    attio_people: SettingsLayer | None = None
    attio_company_orgs: SettingsLayer | None = None
    convex_users: SettingsLayer | None = None

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"Workspace {self.key}"


class VendorAddress(Section):
    """Another address than a vendor's public one."""

    base_url: ConfiguredUrl


class Vendors(Section):
    """Vendors with one public address. Email Bison has instances instead, Convex a deployment per workspace."""

    unknown_code = "unknown_vendor"
    key_noun = "vendor"

    clerk: VendorAddress | None = None
    attio: VendorAddress | None = None
    gohighlevel: VendorAddress | None = None


class TableOverride(Section):
    """Another name, schema or columns of a table; `columns` goes from logical to actual names."""

    name: ConfiguredText | None = None
    schema_name: ConfiguredText | None = Field(default=None, alias="schema")
    columns: FrozenMapping[ConfiguredText] = Field(default_factory=dict, validate_default=True)


class Tables(Section):
    """The user's tables, by their logical names."""

    key_noun = "table"

    Client: TableOverride | None = None
    Lead: TableOverride | None = None
    Job: TableOverride | None = None
    Customer: TableOverride | None = None
    CustomerAddress: TableOverride | None = None
    Audit: TableOverride | None = None
    client_leads: TableOverride | None = None

    @model_validator(mode="before")
    @classmethod
    def _knows_all_columns(cls, data: Any) -> Any:
        for table, override in data.items() if isinstance(data, dict) else ():
            columns = override.get("columns") if isinstance(override, dict) else None
            for column, actual in columns.items() if isinstance(columns, dict) else ():
                if column not in KNOWN_COLUMNS.get(table, (column,)):
                    known, within = KNOWN_COLUMNS[table], (table, "columns")
                    raise unknown_key("unknown_key", "column", column, actual, known, within=within)
        return data

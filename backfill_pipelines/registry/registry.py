"""The registry: clients and workspaces by key, and what holds for each of them.

Belongs here: look-ups over sections that were read already. Does not belong here: reading the file (`loading`).
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import Field, PrivateAttr

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry.explanation import closest
from backfill_pipelines.registry.partitions import is_partition_key
from backfill_pipelines.registry.sections import (
    Client,
    Defaults,
    EmailBisonInstance,
    FrozenMapping,
    Section,
    Tables,
    VendorAddress,
    Vendors,
    Workspace,
)
from backfill_pipelines.registry.settings import BackfillSettings, SettingsLayer
from backfill_pipelines.registry.source import sentence
from backfill_pipelines.registry.tables import TableNames

Kind = Literal["client", "workspace"]
Settings = TypeVar("Settings", bound=BackfillSettings)
_SUGGESTIONS = 5
_SECTIONS: dict[Kind, frozenset[str]] = {
    "client": frozenset({"email_bison", "gohighlevel", "leads"}),
    "workspace": frozenset({"clerk", "attio", "convex"}),
}


class Registry(Section):
    """Everything that `clients.yaml` says. Values that name variables are read when they are resolved."""

    defaults: Defaults = Defaults()
    email_bison: FrozenMapping[EmailBisonInstance] = Field(default_factory=dict, validate_default=True)
    clients: tuple[Client, ...] = ()
    clients_from_database: bool = False
    workspaces: tuple[Workspace, ...] = ()
    vendors: Vendors = Vendors()
    tables: Tables = Tables()

    _file: str = PrivateAttr("the registry")

    def partition_keys(self, kind: Kind, uses: str | Collection[str] = ()) -> list[str]:
        """The keys of the clients or workspaces that have all the sections `uses`, in the order of the file.

        `uses` names sections of an entry: `email_bison`, `gohighlevel`, `leads`; `clerk`, `attio`, `convex`.
        """
        sections = {uses} if isinstance(uses, str) else set(uses)
        if unknown := sections - _SECTIONS[kind]:
            msg = f"a {kind} has no section {sorted(unknown)}"
            raise ValueError(msg)
        entries = self.clients if kind == "client" else self.workspaces
        return [entry.key for entry in entries if all(getattr(entry, section) is not None for section in sections)]

    def client(self, key: str) -> Client:
        """The client of that key. Raises ConfigurationError `unknown_client`, which says what is known."""
        for client in self.clients:
            if client.key == key:
                return client
        raise self._unknown("client", key)

    def workspace(self, key: str) -> Workspace:
        """The workspace of that key. Raises ConfigurationError `unknown_client`, which says what is known."""
        for workspace in self.workspaces:
            if workspace.key == key:
                return workspace
        raise self._unknown("workspace", key)

    def require_partition(self, kind: Kind, key: str, uses: str | Collection[str]) -> None:
        """Raise ConfigurationError unless the key is one of `partition_keys(kind, uses)`.

        `unknown_client`: nobody has that key, or it is of the other kind; `missing_section`: the entry lacks one.
        """
        entry = self.client(key) if kind == "client" else self.workspace(key)
        if key in self.partition_keys(kind, uses):
            return
        wanted = [uses] if isinstance(uses, str) else list(uses)
        missing = ", ".join(section for section in wanted if getattr(entry, section) is None)
        raise ConfigurationError(
            "missing_section", f"{entry.label} has no {missing} section; add it to its entry in {self._file}."
        )

    def require_own_location(self, client: Client) -> None:
        """Raise ConfigurationError `duplicate_location` where another client has this one's GoHighLevel location.

        The file is refused as a whole where it says so; rows of `"Client"` may say so too.
        """
        if client.gohighlevel is None:
            return
        location = client.gohighlevel.location_id.identity()
        for other in self.clients:
            if other.key != client.key and other.gohighlevel and other.gohighlevel.location_id.identity() == location:
                raise ConfigurationError(
                    "duplicate_location",
                    f"{client.label} and {other.label} have one GoHighLevel location, in {self._file} or the table of "
                    "clients; correct one of them: the leads of both would be looked for in the same place.",
                )

    def bison_instance(self, client: Client) -> EmailBisonInstance:
        """The Email Bison instance of a client; an unset variable of the instance names the client.

        Raises ConfigurationError: `missing_section`, `unknown_instance`.
        """
        if client.email_bison is None:
            raise ConfigurationError(
                "missing_section", f"{client.label} has no email_bison section; add it to its entry in {self._file}."
            )
        instance = self.email_bison.get(client.email_bison.instance)
        if instance is None:
            known = ", ".join(self.email_bison) or "none"
            raise ConfigurationError(
                "unknown_instance",
                f"{client.label} names an Email Bison instance that {self._file} does not have; known: {known}.",
            )
        return instance.owned_by(client.label)

    def vendor_base_url(
        self, vendor: Literal["clerk", "attio", "gohighlevel"], entry: Client | Workspace | None = None
    ) -> str | None:
        """Another address for the vendor than its public one, without a slash at the end; None where there is none.

        An unset variable in it names the entry.
        """
        override: VendorAddress | None = getattr(self.vendors, vendor)
        if override is None:
            return None
        base_url = override.base_url
        return (base_url.owned_by(entry.label) if entry is not None else base_url).resolve()

    def phone_region(self, client: Client) -> str:
        """The region in which the client's phone numbers are read, ISO 3166 alpha-2."""
        return (client.phone_region or self.defaults.phone_region.owned_by(client.label)).resolve()

    def timezone(self, client: Client | None = None) -> ZoneInfo:
        """The client's time zone, or the default one."""
        if client is None:
            return ZoneInfo(self.defaults.timezone.resolve())
        return ZoneInfo((client.timezone or self.defaults.timezone.owned_by(client.label)).resolve())

    def settings(self, model: type[Settings], entry: Client | Workspace) -> Settings:
        """The settings of the model's backfill for one client or workspace; what its entry says wins.

        Raises ConfigurationError.
        """
        default_layer: SettingsLayer | None = getattr(self.defaults, model.section)
        entry_layer: SettingsLayer | None = getattr(entry, model.section)
        defaults = default_layer.read(model, owner=entry.label) if default_layer else model()
        return model.merged(defaults, entry_layer.read(model, owner=entry.label)) if entry_layer else defaults

    def store_skips(self, backfill: str, partition_key: str) -> bool:
        """Whether the plan of that partition stores its `skip` rows. False for a backfill without settings."""
        entries: list[Client | Workspace] = [*self.clients, *self.workspaces]
        for place in (*(entry for entry in entries if entry.key == partition_key), self.defaults):
            layer = getattr(place, backfill, None)
            if isinstance(layer, SettingsLayer) and "store_skips" in layer.values:
                return layer.values["store_skips"] is True
        return False

    def table(self, logical: str) -> TableNames:
        """The actual names of a table and its columns. Raises ValueError for a table that is not known."""
        if logical not in Tables.model_fields:
            msg = f"unknown logical table {logical!r}"
            raise ValueError(msg)
        override = getattr(self.tables, logical)
        if override is None:
            return TableNames(logical, None, logical, MappingProxyType({}))
        return TableNames(
            logical=logical,
            schema=override.schema_name.resolve() if override.schema_name else None,
            name=override.name.resolve() if override.name else logical,
            renamed=MappingProxyType({column: actual.resolve() for column, actual in override.columns.items()}),
        )

    def _unknown(self, kind: Kind, key: str) -> ConfigurationError:
        mine, others = [client.key for client in self.clients], [workspace.key for workspace in self.workspaces]
        if kind == "workspace":
            mine, others = others, mine
        if key in others:
            other = "client" if kind == "workspace" else "workspace"
            return ConfigurationError("unknown_client", f"{key} in {self._file} is a {other}, not a {kind}.")
        if close := closest(key, mine, _SUGGESTIONS):
            hint = f"did you mean {' or '.join(close)}?"
        else:
            more = f" and {len(mine) - _SUGGESTIONS} more" if len(mine) > _SUGGESTIONS else ""
            hint = f"known: {', '.join(mine[:_SUGGESTIONS]) or 'none'}{more}"
        asked = f"{kind} {key}" if is_partition_key(key) else f"{kind} of the key given"
        return ConfigurationError("unknown_client", sentence(f"{self._file} has no {asked}; {hint}"))

"""Clients and workspaces, and their partitions: what `clients.yaml` says.

Belongs here: reading and checking that file, look-ups by key, the names of the user's tables, and which partitions
there should be. Does not belong here: calling a vendor, reading a database, adding partitions to Dagster.

Every mistake is a ConfigurationError, one sentence with file, line and key, and without any value that may be a secret.
Its codes are stable:

- `registry_missing`, `registry_unreadable`: there is no such file, or it cannot be read
- `registry_invalid`: not YAML, a value of a wrong type, an empty or otherwise impossible value
- `missing_key`, `unknown_key`, `unknown_vendor`: a key that must be there is not; a key or vendor nobody knows
- `invalid_key`: a partition key that is not 1 to 63 of a-z, 0-9 and hyphens
- `duplicate_key`: a key twice in one mapping, or two clients or workspaces with one key
- `duplicate_workspace`, `duplicate_location`: two clients with one Email Bison workspace or GoHighLevel location
- `duplicate_name`: two clients with Email Bison workspaces and one name, under which `client_leads` keeps their rows
- `duplicate_client_id`: two clients with one `leads: client_id`: both would work on the same rows of `"Lead"`
- `unknown_instance`: a client names an Email Bison instance that is not in the file
- `missing_variable`: an environment variable is unset or empty; raised when a value that names it is used
- `unknown_client`: no client or workspace has the key that was asked for
- `missing_section`: the client or workspace lacks the section that a backfill needs
"""

from backfill_pipelines.registry.configured import ConfiguredSecret, ConfiguredText, ConfiguredUrl
from backfill_pipelines.registry.database_clients import DatabaseClient, with_database_clients
from backfill_pipelines.registry.loading import load_registry, registry_path
from backfill_pipelines.registry.partitions import is_partition_key, partition_key_for, partitions_to_add
from backfill_pipelines.registry.registry import Registry
from backfill_pipelines.registry.sections import (
    AttioAccess,
    ClerkAccess,
    Client,
    ConvexAccess,
    EmailBisonAccess,
    EmailBisonInstance,
    GoHighLevelAccess,
    LeadRows,
    Workspace,
)
from backfill_pipelines.registry.settings import (
    SETTINGS_MODELS,
    AttioCompanyOrgsSettings,
    BackfillSettings,
    ClientLeadsSettings,
    CustomersSettings,
    LeadHydrationSettings,
)
from backfill_pipelines.registry.tables import TableNames

__all__ = [
    "SETTINGS_MODELS",
    "AttioAccess",
    "AttioCompanyOrgsSettings",
    "BackfillSettings",
    "ClerkAccess",
    "Client",
    "ClientLeadsSettings",
    "ConfiguredSecret",
    "ConfiguredText",
    "ConfiguredUrl",
    "ConvexAccess",
    "CustomersSettings",
    "DatabaseClient",
    "EmailBisonAccess",
    "EmailBisonInstance",
    "GoHighLevelAccess",
    "LeadHydrationSettings",
    "LeadRows",
    "Registry",
    "TableNames",
    "Workspace",
    "is_partition_key",
    "load_registry",
    "partition_key_for",
    "partitions_to_add",
    "registry_path",
    "with_database_clients",
]

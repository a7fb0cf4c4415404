"""What a command logs, and where: stderr, so that stdout stays the command's answer.

Belongs here: levels and handlers. Does not belong here: redaction: nothing personal is ever handed to a logger.
"""

from __future__ import annotations

import logging
import sys


def configure_logs(*, verbose: bool) -> None:
    """Log warnings of the package to stderr, its progress too with `verbose`; of others only errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("backfill_pipelines")
    package.handlers[:] = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if verbose else logging.WARNING)
    # Dagster's storage warns through the root logger, with a driver's words about each connection that it tries again.
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("dagster").setLevel(logging.ERROR)

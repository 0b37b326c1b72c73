"""The limit of sessions that an owner may have: a login ends the oldest."""

import logging

from dynamodb_sessions.exceptions import ConfigurationError, StoreUnavailable
from dynamodb_sessions.stores.contract import OwnerStore, Record

logger: logging.Logger = logging.getLogger("dynamodb_sessions")


async def limit_owner(owners: OwnerStore, record: Record, maximum: int) -> None:
    """End the oldest sessions of a record's owner until `maximum` are left, its own among them.

    The login itself has succeeded already: what goes wrong is logged.
    """
    if record.owner is None:
        return
    try:
        await owners.limit_owner(record.owner, maximum, keep=record.id)
    except (StoreUnavailable, ConfigurationError) as error:
        logger.error("an owner's sessions could not be counted, and may be more than %d: %s", maximum, error)

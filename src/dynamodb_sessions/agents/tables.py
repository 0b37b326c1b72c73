"""The table that conversations and threads are kept in: one TableCalls for all that name it alike."""

import functools
from functools import partial
from typing import Any

from dynamodb_sessions.aws.table_calls import TableCalls
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

_PROBE = {**item_format.key(PROBE_ID), table_schema.POSITION: item_format.number(0)}


@functools.lru_cache(maxsize=64)
def table(
    table_name: str, region_name: str | None, endpoint_url: str | None, client: Any, create_table: bool
) -> TableCalls:
    """Return what calls the table. Objects with the same options share its connections.

    Raises ConfigurationError for an invalid name, or a client that cannot be built or used.
    """
    return TableCalls(
        table_name,
        probe_key=_PROBE,
        create=partial(table_schema.create, conversations=True, tenants=True),
        region_name=region_name,
        endpoint_url=endpoint_url,
        client=client,
        create_table=create_table,
        timeout=5.0,
    )

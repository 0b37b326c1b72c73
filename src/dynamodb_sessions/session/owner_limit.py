"""The limit of sessions that an owner may have: a login ends the oldest."""

from dynamodb_sessions import clock
from dynamodb_sessions.stores.contract import OwnerStore, Record, SessionStore


async def limit_owner(owners: OwnerStore, store: SessionStore, record: Record, maximum: int) -> None:
    """End, in `store`, the oldest sessions of a record's owner until `maximum` are left, its own among them."""
    if record.owner is None:
        return
    others = [other async for other in owners.list_owner(record.owner, now=clock.wall_clock()) if other.id != record.id]
    for other in others[: max(0, len(others) - maximum + 1)]:
        await store.delete(other.id, record=other)

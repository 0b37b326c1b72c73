"""Ids of items that are in a table of sessions, or asked for in one, and are no session."""

import hashlib

from dynamodb_sessions.stores.contract import Party

PROBE_ID = "dynamodb-sessions/probe"
"""The id that is asked for to see whether the table answers. Nothing is stored under it."""

ADOPTED = "imported/"
"""What the id of a record begins with that says which session a cookie of Starlette's has become."""

_REVOKED = "revoked/"


def revocation_of(party: Party) -> str:
    """Return the id of the item that says when all the sessions of an owner, or of a tenant, were last ended."""
    kind = "" if party.kind == "owner" else f"{party.kind}/"
    return f"{_REVOKED}{kind}{hashlib.sha256(str(party.name).encode()).hexdigest()}"

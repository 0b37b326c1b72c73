"""UpdateItem as text: the expressions and conditions by which one change is one request.

What is returned are a request's parameters without the table's name.
"""

from typing import Any

from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Changes, Record

_LIVE = "attribute_exists(#id) AND #t > :now"


def of_changes(record: Record, changes: Changes, now: int, compress_over: int | None) -> dict[str, Any]:
    """Return the UpdateItem that changes only what changed."""
    names = {"#id": table_schema.KEY, "#t": table_schema.TTL}
    values = {":now": item_format.number(now), ":t": item_format.number(changes.expires_at)}
    request: dict[str, Any] = {
        "Key": item_format.key(record.id),
        "ConditionExpression": _LIVE,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }
    sets, removes = ["#t=:t"], list[str]()
    if record.version:  # And not another session, created under its id since.
        names["#c"] = "created_at"
        values[":c"] = item_format.number(record.created_at)
        request["ConditionExpression"] += " AND #c = :c"
    if changes.set or changes.remove:
        names["#d"] = "user_data"
        values[":map"] = {"S": "M"}
        request["ConditionExpression"] += " AND attribute_type(#d, :map)"
    for number, (key, value) in enumerate(changes.set.items()):
        names[f"#s{number}"], values[f":s{number}"] = key, item_format.pack(value, compress_over)
        sets.append(f"#d.#s{number}=:s{number}")
    for number, key in enumerate(changes.remove):
        names[f"#r{number}"] = key
        removes.append(f"#d.#r{number}")
    if not changes.is_touch:
        names["#v"] = "version"
        values[":one"] = item_format.number(1)
        request["ReturnValues"] = "UPDATED_NEW"
    _set_attributes(changes, sets, removes, request)
    request["UpdateExpression"] = _expression(sets, removes, touch=changes.is_touch)
    return request


def of_replacement(
    stored: Record, changed: Record, changes: Changes, now: int, compress_over: int | None
) -> dict[str, Any]:
    """Return the UpdateItem that writes the whole map, provided that nobody has changed what was read."""
    request = unchanged(stored, now)
    request["ExpressionAttributeNames"] |= {"#c": "created_at", "#d": "user_data"}
    request["ExpressionAttributeValues"] |= {
        ":c": item_format.number(stored.created_at),
        ":d": item_format.user_data(changed, compress_over),
        ":one": item_format.number(1),
        ":t": item_format.number(changes.expires_at),
    }
    # Older writers left fractions in created_at.
    sets, removes = ["#c=:c", "#d=:d", "#t=:t"], list[str]()
    _set_attributes(changes, sets, removes, request)
    request["UpdateExpression"] = _expression(sets, removes, touch=False)
    return request


def unchanged(stored: Record, now: int) -> dict[str, Any]:
    """Return key and condition of a write that takes the record to be stored as it was read."""
    request = {"Key": item_format.key(stored.id), **of_version(stored.version)}
    request["ConditionExpression"] += " AND #t > :now"
    request["ExpressionAttributeNames"]["#t"] = table_schema.TTL
    request.setdefault("ExpressionAttributeValues", {})[":now"] = item_format.number(now)
    if stored.version:
        request["ConditionExpression"] += " AND #c = :c"
        request["ExpressionAttributeNames"]["#c"] = "created_at"
        request["ExpressionAttributeValues"][":c"] = item_format.number(stored.created_at)
    return request


def of_version(version: int) -> dict[str, Any]:
    """Return the condition of a write that takes the item to be of this version; 0: of the older layout."""
    if not version:
        return {
            "ConditionExpression": "attribute_exists(#id) AND attribute_not_exists(#v)",
            "ExpressionAttributeNames": {"#id": table_schema.KEY, "#v": "version"},
        }
    return {
        "ConditionExpression": "#v = :v",
        "ExpressionAttributeNames": {"#v": "version"},
        "ExpressionAttributeValues": {":v": item_format.number(version)},
    }


def _set_attributes(changes: Changes, sets: list[str], removes: list[str], request: dict[str, Any]) -> None:
    """Add to an UpdateItem what else a change may set."""
    if changes.owner is not None:
        request["ExpressionAttributeNames"]["#o"] = "owner"
        request["ExpressionAttributeValues"][":o"] = {"S": changes.owner}
        sets.append("#o=:o")
    if changes.max_age is not None:
        request["ExpressionAttributeNames"]["#m"] = "max_age"
        if changes.max_age:
            request["ExpressionAttributeValues"][":m"] = item_format.number(changes.max_age)
            sets.append("#m=:m")
        else:
            removes.append("#m")


def _expression(sets: list[str], removes: list[str], *, touch: bool) -> str:
    clauses = ["SET " + ",".join(sets)]
    if not touch:
        clauses.append("ADD #v :one")
    if removes:
        clauses.append("REMOVE " + ",".join(removes))
    return " ".join(clauses)

"""What DynamoDB's refusals and an SDK's errors mean here. Names the cause, never the request.

It imports no SDK: an error is known by the names of its classes, whichever client raised it.
"""

from typing import Any

from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable

UNSENDABLE_CREDENTIALS = "the AWS credentials hold what no header can: is there a line break at the end of one?"

_FIXES = {
    "ResourceNotFoundException": "create the table, or correct its name or region",
    "AccessDeniedException": (
        "allow the role GetItem, PutItem, UpdateItem and DeleteItem on the table, and Query on its index owner-index"
    ),
    "UnrecognizedClientException": "the credentials are not valid here",
    "InvalidSignatureException": "the credentials are not valid here",
    "IncompleteSignatureException": "the credentials are not valid here",
    "MissingAuthenticationTokenException": "the credentials are not valid here",
    "ExpiredTokenException": "renew the credentials",
    "ExpiredToken": "renew the credentials",
    "OptInRequired": "the account is not subscribed to DynamoDB",
    "ValidationException": (
        "its partition key must be session_id, a string; of a table of conversations, its sort key position, a number"
    ),
}


_UNCONFIGURED = frozenset(("NoCredentialsError", "PartialCredentialsError", "NoRegionError", "ProfileNotFound"))


class ConditionFailed(SessionError):
    """The item is not as the write demanded. Nothing was written, unless by an earlier attempt of the same call."""

    def __init__(self, message: str, *, repeated: bool = False) -> None:
        super().__init__(message)
        self.repeated = repeated
        """Whether there was an earlier attempt, whose reply was lost."""


class Contended(SessionError):
    """Another transaction holds the item just now. Nothing was written."""


class ItemTooLarge(SessionError):
    """The item would be larger than DynamoDB takes. Nothing was written."""


class NotAsked(StoreUnavailable):
    """There are more calls to make than are made at once: DynamoDB was not asked, so nothing is said about it."""


def translate(error: Exception) -> SessionError:
    """Return what a client's error means here. Names the cause, never the request."""
    if isinstance(error, SessionError):
        return error
    kinds = _kinds(error)
    if "ClientError" in kinds:
        return translate_response(error.response)  # type: ignore[attr-defined]
    if "ParamValidationError" in kinds:  # Its text quotes the parameters.
        return ConfigurationError("DynamoDB's client refused the parameters of the call")
    if not kinds.isdisjoint(_UNCONFIGURED):
        return ConfigurationError(reason(error))
    if "CredentialRetrievalError" in kinds:
        return StoreUnavailable("the credentials could not be retrieved")
    return _unreachable(error, kinds)


def _kinds(error: Exception) -> set[str]:
    """Return the names of an error's classes."""
    return {kind.__name__ for kind in type(error).__mro__}


def _unreachable(error: Exception, kinds: set[str]) -> SessionError:
    if type(error).__name__ != "HTTPClientError":
        cause = reason(error) if "HTTPClientError" in kinds else type(error).__name__
        return StoreUnavailable(f"DynamoDB cannot be reached: {cause}")
    # It quotes whatever went wrong while the request was made and sent, be it a header of the request.
    inner = vars(error).get("kwargs", {}).get("error", error)
    if str(inner).startswith("Invalid header value"):
        return ConfigurationError(UNSENDABLE_CREDENTIALS)
    return StoreUnavailable(f"DynamoDB cannot be reached: {type(inner).__name__}")


def translate_response(response: Any) -> SessionError:
    code = response.get("Error", {}).get("Code", "")
    message = response.get("Error", {}).get("Message", "")
    reasons = [reason for reason in response.get("CancellationReasons", ()) if reason.get("Code") != "None"]
    codes = {reason.get("Code") for reason in reasons}
    if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in codes:
        repeated = response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        return ConditionFailed("the item is not as the write demands", repeated=repeated)
    if code in {"TransactionConflictException", "TransactionInProgressException"} or "TransactionConflict" in codes:
        return Contended("another transaction holds the item")
    if any("size" in text.lower() and "exceeded" in text.lower() for text in (message, *_messages(reasons))):
        return ItemTooLarge("the item is larger than DynamoDB takes")
    said = f"DynamoDB said {code or 'nothing it can name'}"
    if "specified index" in message:
        return ConfigurationError(f"{said}: the table has no index owner-index, which finds the sessions of an owner")
    if code in _FIXES:
        return ConfigurationError(f"{said}: {_FIXES[code]}")
    return StoreUnavailable(said)


def _messages(reasons: list[dict[str, Any]]) -> list[str]:
    return [str(reason.get("Message", "")) for reason in reasons if reason.get("Code") == "ValidationError"]


def reason(error: Exception) -> str:
    """Return the error's own words on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())

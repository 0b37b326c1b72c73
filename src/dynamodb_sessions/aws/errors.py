"""What DynamoDB's refusals and an SDK's errors mean here. Names the cause, never the request.

What matters most of an attempt that failed is whether it can have written something:

- `Refused`: DynamoDB has answered, and nothing was written. The same attempt may succeed a moment later.
- `Unreachable`: it was never sent. As above, but nobody has answered.
- `OutcomeUnknown`: it was sent, and no answer says what became of it. Only a read can tell.
- every other error is final: nothing was written, and the same attempt would fail again.

It imports no SDK: an error is known by the names of its classes, whichever client raised it.
"""

from collections.abc import Mapping
from typing import Any

from dynamodb_sessions.aws.access_denied import denial
from dynamodb_sessions.aws.setup_errors import kinds_of, not_set_up, reason, setup_problem, source_of
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable, outage

_INVALID = "the credentials are not valid here"
_EXPIRED = "renew the credentials"

CREDENTIALS_REFUSED = {
    "UnrecognizedClientException": _INVALID,
    "InvalidSignatureException": _INVALID,
    "IncompleteSignatureException": _INVALID,
    "MissingAuthenticationTokenException": _INVALID,
    "ExpiredTokenException": _EXPIRED,
    "ExpiredToken": _EXPIRED,
}
"""Codes that say that the credentials are not valid, or not any more, each with what fixes it."""

_FIXES = CREDENTIALS_REFUSED | {
    "ResourceNotFoundException": "create the table, or correct its name or region",
    "AccessDeniedException": (
        "allow the role GetItem, PutItem, UpdateItem and DeleteItem on the table, and Query on its index owner-index"
    ),
    "OptInRequired": "the account is not subscribed to DynamoDB",
}
_WRONG_KEY = (
    "its partition key must be session_id, a string; of a table of conversations, its sort key position, a number"
)
_UNKNOWN_INVALID = "what was sent is invalid to it: `dynamodb-sessions check` looks for the cause"
BACKFILLING = "backfilling"
"""In the text of a ValidationException: the index is there, and cannot be read yet.

Source: github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/1075.
"""

_THROTTLED = (
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",
    "ThrottlingException",
    "ThrottlingError",
    "Throttling",
    "ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
    "SlowDown",
)
"""Source: botocore's list of throttling errors, and "Error handling with DynamoDB" in the AWS documentation."""

THROTTLING_REASONS = ("ThrottlingReasons", "throttlingReasons")
"""Where an answer says why: the second is the spelling of ThrottlingException. Source: botocore's model."""

_CONFLICTS = (
    "TransactionConflictException",
    "TransactionConflict",
    "TransactionInProgressException",
    "ReplicatedWriteConflictException",
)
_SERVER_ERROR = 500
_SERVER_ERRORS = ("InternalServerError", "InternalServerErrorException", "InternalFailure")
_MAY_PASS = ("CredentialRetrievalError", "CredentialProcessHangs")
"""Errors of a source of credentials that may give them a moment later."""
_NEVER_SENT = (
    # botocore's
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ProxyConnectionError",
    # aiohttp's
    "ClientConnectorError",
    "ConnectionTimeoutError",
)
"""Errors of making a connection: what was to be sent on it has not been sent."""


class ConditionFailed(SessionError):
    """The item is not as the write demanded. Nothing was written by this attempt."""


class ItemTooLarge(SessionError):
    """The item would be larger than DynamoDB takes. Nothing was written."""


class Refused(StoreUnavailable):
    """DynamoDB has no room for the attempt just now: it is throttled, or another transaction holds the item."""


class Throttled(Refused):
    """Refused, as a limit was reached. `limit`: AWS's name of it, such as TableWriteKeyRangeThroughputExceeded."""

    def __init__(self, message: str, limit: str = "Throttled") -> None:
        super().__init__(message)
        self.limit = limit


class Unreachable(StoreUnavailable):
    """No connection could be made, so the attempt was never sent."""


class OutcomeUnknown(StoreUnavailable):
    """The attempt may have been applied, or be applied yet: no answer says so, or says that it was not."""


class NotAsked(StoreUnavailable):
    """There are more calls to make than are made at once: DynamoDB was not asked, so nothing is said about it."""


def translate(error: Exception) -> SessionError:  # noqa: PLR0911 - a table
    """Return what a client's error means here. Names the cause, never the request."""
    if isinstance(error, SessionError):
        return error
    kinds = kinds_of(error)
    response = getattr(error, "response", None)
    problem = setup_problem(error)
    if problem is not None and problem.subject != "connection":
        if not kinds.isdisjoint(_MAY_PASS) or (isinstance(response, dict) and _is_busy(response)):
            return StoreUnavailable(str(problem))
        return not_set_up(problem, error)
    if "ClientError" in kinds and isinstance(response, dict):
        return translate_response(response)
    if "ParamValidationError" in kinds:  # Its text quotes the parameters.
        return outage("DynamoDB's client refused the parameters of the call")
    if not kinds.isdisjoint(_NEVER_SENT):
        return Unreachable(f"DynamoDB cannot be reached: {reason(error)}")
    return _lost(error, kinds)


def is_about_credentials(response: Mapping[str, Any]) -> bool:
    """Whether an answer refuses the credentials."""
    return _part(response, "Error").get("Code") in CREDENTIALS_REFUSED


def naming_the_source(error: SessionError, credentials: Any) -> SessionError:
    """Return an error about refused credentials that says where boto3 has found them."""
    source = source_of(credentials)
    return outage(f"{error}; they are from {source}") if source and isinstance(error, ConfigurationError) else error


def blames_credentials(error: Exception) -> bool:
    """Whether a client's error says that there were no credentials, or none that are valid."""
    response = getattr(error, "response", None)
    if isinstance(response, dict) and is_about_credentials(response):
        return True
    return not kinds_of(error).isdisjoint(("NoCredentialsError", "PartialCredentialsError"))


def _lost(error: Exception, kinds: set[str]) -> SessionError:
    if type(error).__name__ != "HTTPClientError":
        cause = reason(error) if "HTTPClientError" in kinds else type(error).__name__
        return OutcomeUnknown(f"DynamoDB cannot be reached: {cause}")
    # It quotes whatever went wrong while the request was made and sent, be it a header of the request.
    inner = vars(error).get("kwargs", {}).get("error", error)
    return OutcomeUnknown(f"DynamoDB cannot be reached: {type(inner).__name__}")


def translate_response(response: Mapping[str, Any]) -> SessionError:  # noqa: PLR0911 - a table
    """Return what an answer that is a refusal means, in the form that botocore gives it."""
    told = _part(response, "Error")
    code, message = str(told.get("Code") or ""), str(told.get("Message") or "")
    given = response.get("CancellationReasons")
    # Some that speak DynamoDB's language leave holes in it.
    reasons = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    codes = {str(each.get("Code")) for each in reasons}
    if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in codes:
        return ConditionFailed("the item is not as the write demands")
    said = f"DynamoDB said {code or 'nothing it can name'}"
    if code in _CONFLICTS or not codes.isdisjoint(_CONFLICTS):
        return Refused(f"{said}: another transaction holds the item")
    throttled = sorted({code, *codes}.intersection(_THROTTLED))
    if throttled:
        limits = _limits(told, response)
        why = f" ({', '.join(f'{limit} on {resource}' for limit, resource in limits)})" if limits else ""
        return Throttled(f"{said}: it is throttled{why}", limits[0][0] if limits else throttled[0])
    too_large = [message, *(str(each.get("Message")) for each in reasons if each.get("Code") == "ValidationError")]
    if any("size" in text.lower() and "exceeded" in text.lower() for text in too_large):
        return ItemTooLarge("the item is larger than DynamoDB takes")
    status = _part(response, "ResponseMetadata").get("HTTPStatusCode")
    if not code or code in _SERVER_ERRORS or (isinstance(status, int) and status >= _SERVER_ERROR):
        return OutcomeUnknown(said)
    if code == "ValidationException":
        return outage(f"{said}: {_why_invalid(message)}")
    denied = denial(message) if code == "AccessDeniedException" else None
    if denied is not None:
        return outage(f"{said}: {denied.cause}: {denied.fix}")
    if code in _FIXES:
        return outage(f"{said}: {_FIXES[code]}")
    return StoreUnavailable(said)


def words_of(error: Exception) -> str:
    """Return what an error means here, whoever raised it, without what it may quote."""
    return str(error if isinstance(error, TimeoutError) else translate(error))


def _is_busy(response: Mapping[str, Any]) -> bool:
    """Whether an answer says that there may be another one a moment later."""
    status = _part(response, "ResponseMetadata").get("HTTPStatusCode")
    return _part(response, "Error").get("Code") in _THROTTLED or (isinstance(status, int) and status >= _SERVER_ERROR)


def _why_invalid(message: str) -> str:
    """Return what a ValidationException means. Its text may quote the request, so it is not shown."""
    if "specified index" in message and "tenant-index" in message:
        return (
            "the table has no index tenant-index, which finds what belongs to a tenant: make it with "
            "tenant_index = true in Terraform, or the command that `dynamodb-sessions check --tenants` prints"
        )
    text = message.lower()
    if BACKFILLING in text:
        index = "tenant-index" if "tenant-index" in text else "owner-index"
        return f"the index {index} is being built (backfilling): wait until it is ACTIVE"
    if "specified index" in text:
        return "the table has no index owner-index, which finds the sessions of an owner"
    if "kms" in text or "inaccessible_encryption_credentials" in text:
        return "it cannot use the table's KMS key: enable the key, and let its key policy allow DynamoDB to use it"
    # "The provided key element does not match the schema", "Missing the key id in the item", "key size", and so on.
    return _WRONG_KEY if "key" in text or "schema" in text else _UNKNOWN_INVALID


def _part(response: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = response.get(name)
    return part if isinstance(part, Mapping) else {}


def _limits(told: Mapping[str, Any], response: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return AWS's reasons: which limit of what was reached. Source: "Diagnosing throttling" in its documentation."""
    found = [part[name] for part in (response, told) for name in THROTTLING_REASONS if part.get(name)]
    given = found[0] if found else None
    if not isinstance(given, list):
        return []
    return [
        (str(each.get("reason") or each.get("Reason")), str(each.get("resource") or each.get("Resource")))
        for each in given
        if isinstance(each, dict)
    ]

"""What it means that no call could be made: no region, no credentials, nobody at the address. By name, with its fix.

An error's own words are shown only if its class is known to quote no more than names: a client quotes the headers of
its requests, credentials and signature among them, and what a credential_process has printed.

It imports no SDK: an error is known by the names of its classes.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dynamodb_sessions.aws.access_denied import denial
from dynamodb_sessions.exceptions import ConfigurationError, outage

_FIX_REGION = "set AWS_REGION, or give region_name= or --region"
_FIND_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose an AWS_PROFILE, or give the machine a role"
_FIX_ENDPOINT = "give the endpoint as a URL, like http://127.0.0.1:8000"
_FIX_CONNECTION = "correct the region or the endpoint's address, and make sure that the network lets HTTPS through"
_FIX_UNSENDABLE = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN without blanks or line breaks"
_LOG_IN = "log in again: aws sso login"

SOURCES = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "a profile in the credentials file",
    "config-file": "a profile in the config file",
    "custom-process": "the credential_process of a profile",
    "assume-role": "a role that a profile assumes (role_arn)",
    "assume-role-with-web-identity": "a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "sso": "SSO (IAM Identity Center)",
    "login": "a login (aws login)",
    "container-role": "the container (ECS, EKS Pod Identity)",
    "EcsContainer": "the container (ECS, EKS Pod Identity)",
    "iam-role": "the role of the EC2 instance",
    "Ec2InstanceMetadata": "the role of the EC2 instance",
}
"""By botocore's name of a way to find credentials, where they come from."""

_RETRIEVAL_FIXES = {
    "custom-process": "run the command by itself: it must print the credentials as JSON, and end with 0",
    "container-role": "make sure that the task or the pod has a role, and that its agent answers",
    "EcsContainer": "make sure that the task or the pod has a role, and that its agent answers",
    "iam-role": "give the instance a role, and let the metadata service answer",
    "Ec2InstanceMetadata": "give the instance a role, and let the metadata service answer",
}

_STS_FIXES = {
    "AssumeRole": "let the role's trust policy name who assumes it, and allow them sts:AssumeRole on it",
    "AssumeRoleWithWebIdentity": "let the role's trust policy name the cluster's OIDC provider and the service account",
    "GetRoleCredentials": "let IAM Identity Center assign the account and the role to who has logged in",
}
"""By the call that gives credentials: what lets it be made."""

# By the name of an error that quotes nothing but names: what is wrong, and what fixes it.
_QUOTED = {
    "NoRegionError": ("region", _FIX_REGION),
    "InvalidRegionError": ("region", _FIX_REGION),
    "NoCredentialsError": ("credentials", _FIND_CREDENTIALS),
    "PartialCredentialsError": ("credentials", _FIND_CREDENTIALS),
    "ProfileNotFound": ("credentials", "set AWS_PROFILE to a profile that exists"),
    "InvalidConfigError": ("credentials", "correct the profile"),
    "InfiniteLoopConfigError": ("credentials", "correct the profile"),
    "UnknownCredentialError": ("credentials", "correct the profile"),
    "ConfigParseError": ("credentials", "correct the file"),
    "ConfigNotFound": ("credentials", "correct the path"),
    "EndpointConnectionError": ("connection", _FIX_CONNECTION),
    "ConnectTimeoutError": ("connection", _FIX_CONNECTION),
    "ReadTimeoutError": ("connection", _FIX_CONNECTION),
    "ConnectionClosedError": ("connection", _FIX_CONNECTION),
    "ProxyConnectionError": ("connection", _FIX_CONNECTION),
    "SSLError": ("connection", "make sure that AWS_CA_BUNDLE holds who has signed the endpoint's certificate"),
    "ClientConnectorError": ("connection", _FIX_CONNECTION),
    "ConnectionTimeoutError": ("connection", _FIX_CONNECTION),
}

_USER_INFO = re.compile(r"//\S+@")
"""Where an address holds a password, be it one with a slash, which a URL does not allow there."""

_REGION = re.compile(r"[a-zA-Z0-9-]+")


@dataclass(frozen=True, slots=True)
class SetupProblem:
    """What is wrong, and what fixes it."""

    subject: str
    """One of "region", "credentials" and "connection"."""
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.fix}"


UNSENDABLE = SetupProblem(
    "credentials",
    "the AWS credentials hold what no header can (is there a line break at the end of one?)",
    _FIX_UNSENDABLE,
)
NO_CREDENTIALS = SetupProblem("credentials", "there are no AWS credentials", _FIND_CREDENTIALS)


class SetupError(Exception):
    """Raised, or the cause of what is raised, if nothing can be called as things are."""

    def __init__(self, problem: SetupProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def not_set_up(problem: SetupProblem, error: BaseException | None = None, *, doing: str = "") -> ConfigurationError:
    """Return the error of a problem. It names the client's error if it quotes its words."""
    kind = type(error).__name__ if error is not None and problem.cause == own_words(error) else ""
    return outage(": ".join(part for part in (doing, kind, str(problem)) if part))


def kinds_of(error: BaseException) -> set[str]:
    """Return the names of an error's classes."""
    return {kind.__name__ for kind in type(error).__mro__}


def reason(error: BaseException) -> str:
    """Return an error's name, and its own words on one line if its class is known to quote nothing secret."""
    words = own_words(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def own_words(error: BaseException) -> str:
    """Return an error's own words on one line if its class is known to quote nothing secret."""
    if kinds_of(error).isdisjoint(_QUOTED):
        return ""
    return _USER_INFO.sub("//", " ".join(str(error).split())).removesuffix(".")


def setup_problem(error: BaseException) -> SetupProblem | None:
    """Return what an error of boto3's, aiohttp's or Python's says about the set-up; None: nothing."""
    if isinstance(error, SetupError):
        return error.problem
    for name in (kind.__name__ for kind in type(error).__mro__):
        if name in _QUOTED:
            subject, fix = _QUOTED[name]
            return SetupProblem(subject, own_words(error), fix)
        if name in _FOUND:
            return _FOUND[name](error)
    return None


def build_problem(error: BaseException) -> SetupProblem:
    """Return why no client could be built."""
    found = setup_problem(error)
    if found is not None:
        return found
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return SetupProblem("connection", _USER_INFO.sub("//", " ".join(str(error).split())), _FIX_ENDPOINT)
    if type(error).__name__ == "JSONDecodeError":
        return _retrieval("custom-process", "prints no JSON")
    return SetupProblem("connection", type(error).__name__, "correct what the AWS SDK is configured with")


def check_region(region_name: str | None) -> None:
    """Raise SetupError if it is no name of a region, as botocore lets one pass that ends in a line break."""
    if region_name is not None and not _REGION.fullmatch(region_name):
        cause = f"{region_name!r} is not the name of an AWS region"
        where = f": {_is_broken('AWS_REGION') or _is_broken('AWS_DEFAULT_REGION')}"
        raise SetupError(SetupProblem("region", cause + where.removesuffix(": "), _FIX_REGION))


def _is_broken(variable: str) -> str:
    value = os.environ.get(variable, "")
    return f"{variable} has a line break or blanks around it" if value != value.strip() else ""


def region_problem(table_name: str, region_name: str | None) -> str:
    """Return what is wrong with a table's ARN of another region than the client's; empty: nothing.

    Source: the ARN of a table, in "How Amazon DynamoDB works with IAM": an endpoint has the tables of its own region.
    """
    parts = table_name.split(":")
    if parts[0] != "arn" or region_name is None or parts[3] == region_name:
        return ""
    return f"the table's ARN is of the region {parts[3]}, and {region_name} is asked for it"


def source_of(credentials: Any) -> str:
    """Return where boto3 has found credentials, in words; empty: it does not say."""
    method = str(getattr(credentials, "method", None) or "")
    return SOURCES.get(method, method)


def is_of_dynamodb(operation: str | None) -> bool:
    """Whether a call was one of DynamoDB, not of a service that gives credentials. None: nobody says."""
    return operation not in {*_STS_FIXES, "AssumeRoleWithSAML", "CreateToken", "CreateOAuth2Token"}


def _retrieval(source: str, why: str = "fails") -> SetupProblem:
    fix = _RETRIEVAL_FIXES.get(source, "correct the profile")
    return SetupProblem("credentials", f"{SOURCES.get(source, source)} {why}", fix)


def _of_retrieval(error: BaseException) -> SetupProblem:
    """What it quotes may be what a process has printed: it names the source, and no more."""
    given = getattr(error, "kwargs", {})
    return _retrieval(str(given.get("provider", "")) or "a source of credentials")


def _of_hanging_process(error: BaseException) -> SetupProblem:
    return _retrieval("custom-process", f"did not end within {error.args[0]:.3g} s")


def _of_sso(_: BaseException) -> SetupProblem:
    return SetupProblem("credentials", "nobody is logged in to SSO (IAM Identity Center), or not any more", _LOG_IN)


def _of_login(_: BaseException) -> SetupProblem:
    return SetupProblem("credentials", "nobody is logged in (aws login), or not any more", "log in again: aws login")


def _of_http(error: BaseException) -> SetupProblem | None:
    """What it quotes may be a header of the request."""
    inner = getattr(error, "kwargs", {}).get("error")
    if str(inner).startswith("Invalid header value"):
        return UNSENDABLE
    return SetupProblem("connection", f"the HTTP client fails: {type(inner).__name__}", _FIX_CONNECTION)


def _of_file(error: BaseException) -> SetupProblem | None:
    """A file that boto3 reads to find credentials, or a program that it runs to."""
    path = getattr(error, "filename", None)
    if not isinstance(path, str):
        return None
    why = f"{path}: {getattr(error, 'strerror', None) or type(error).__name__}"
    if path == os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        fix = "let the service account have the annotation eks.amazonaws.com/role-arn, and start the pod anew"
        return SetupProblem("credentials", f"the token file of the web identity cannot be read: {why}", fix)
    fix = "correct credential_process or web_identity_token_file in the profile"
    return SetupProblem("credentials", f"a file that the profile names cannot be used: {why}", fix)


def _of_answer(error: BaseException) -> SetupProblem | None:
    """An answer that is a refusal: of STS or SSO, who were asked for credentials."""
    operation, response = getattr(error, "operation_name", None), getattr(error, "response", None)
    if is_of_dynamodb(operation) or not isinstance(response, Mapping):
        return None
    told = response.get("Error", {})
    told = told if isinstance(told, Mapping) else {}
    service = "SSO" if operation == "GetRoleCredentials" else "STS"
    cause = f"{service} refuses {operation}: {told.get('Code')}"
    denied = denial(str(told.get("Message")))
    if denied is not None:
        cause = f"{cause}: {denied.cause}"
    if str(told.get("Code")) in {"InvalidClientTokenId", "SignatureDoesNotMatch"}:
        return SetupProblem("credentials", cause, "correct the credentials that the role is assumed with")
    if str(told.get("Code")).startswith("Expired"):
        return SetupProblem("credentials", cause, "renew the credentials or the token that the role is assumed with")
    return SetupProblem("credentials", cause, _STS_FIXES.get(str(operation), _LOG_IN))


_FOUND: dict[str, Callable[[BaseException], SetupProblem | None]] = {
    "CredentialRetrievalError": _of_retrieval,
    "CredentialProcessHangs": _of_hanging_process,
    "SSOError": _of_sso,
    "TokenRetrievalError": _of_sso,
    "LoginError": _of_login,
    "HTTPClientError": _of_http,
    "ClientError": _of_answer,
    "OSError": _of_file,
}
"""By the name of an error whose words are not shown: what it is about."""

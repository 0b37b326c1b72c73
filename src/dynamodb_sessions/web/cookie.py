"""The session cookie: sign, verify, render, expire. What it says is `id.number`, and a signature over both.

The signature proves that we issued the id; whether the session still lives is the store's word alone. The number says
when the browser forgets the cookie, so that it can be renewed in time, and which version of the session the browser has
seen, where that matters. Attributes follow RFC 6265bis; see OWASP's Session Management Cheat Sheet for the defaults. A
header that says the same can stand in its place, for clients that keep no cookies.
"""

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from itsdangerous import Signer
from itsdangerous.signer import SigningAlgorithm

from dynamodb_sessions.exceptions import ConfigurationError

_SALT = b"dynamodb_sessions.cookie"
_SIGNED = re.compile(rb"([A-Za-z0-9_-]{43})\.(0|[1-9][0-9]{0,14})\.[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]+")
_BLANKS = b" \t"
_SAME_SITE = ("lax", "strict", "none")
MAX_CANDIDATES = 4
_TAKEN = (
    r"(accept|access-control|content|if|proxy|sec)(-.*)?|authorization|cache-control|connection|cookie|date|etag|expect"
    r"|expires|forwarded|from|host|keep-alive|last-modified|link|location|max-forwards|origin|pragma|range|referer"
    r"|retry-after|server|set-cookie|te|trailer|transfer-encoding|upgrade|user-agent|vary|via|www-authenticate"
)
"""Headers that servers, proxies and browsers read or set. Source: RFC 9110, and "forbidden request-header" of Fetch."""
_REMEMBERED = 1024
_REMEMBERED_SIZE = 2048

MAX_VERSION = 10**6 - 1
"""The highest version of a session that a cookie can tell."""
_VERSIONS = MAX_VERSION + 1
_TIMES_BEGIN = 1_704_067_200
"""The first of January 2024, in epoch seconds: what the times in cookies count from."""
_UNTIL_CLOSED, _FIRST_TIME, _LAST_TIME = 1, 2, 10**9 - 1


@dataclass(frozen=True, slots=True)
class CookiePayload:
    """What a verified cookie says."""

    session_id: str = field(repr=False)
    version: int = 0
    """The version of the session that the browser has seen; 0: this cookie does not keep it."""
    expires_at: int | None = None
    """When the browser forgets the cookie, in epoch seconds; None: when it closes."""
    stale: bool = False
    """Whether another is to take its place: it was signed by an older key, or as the version before did."""

    @property
    def number(self) -> int:
        """What stands in the cookie next to the id: `expires_at` and `version` in one number of at most 15 digits.

        The version before had the session's version there, and nothing else. Its processes verify what ours sign, and
        take the number for a version that they have not read yet: they read consistently. Theirs is below a million.
        """
        if self.expires_at is None:
            time = _UNTIL_CLOSED
        else:
            time = min(max(self.expires_at - _TIMES_BEGIN, _FIRST_TIME), _LAST_TIME)
        return time * _VERSIONS + self.version

    @classmethod
    def of(cls, session_id: str, number: int, *, stale: bool) -> Self:
        """Return what an id and such a number say."""
        time, version = divmod(number, _VERSIONS)
        expires_at = time + _TIMES_BEGIN if time >= _FIRST_TIME else None
        return cls(session_id, version, expires_at, stale=stale or time < _UNTIL_CLOSED)


class _Signed:
    """Signs what says which session is meant, and verifies it. Keys are newest first: the first signs, all verify."""

    def __init__(self, keys: Sequence[str], *, header: str) -> None:
        self.header: bytes = header.encode()
        """The header that tells the client."""
        self._signers = [_signer(key) for key in keys]
        self.on_refused: Callable[[], object] | None = None
        """Called when a request has a value of this name, and none that verifies."""

    def _sign(self, payload: CookiePayload) -> str:
        return self._signers[0].sign(f"{payload.session_id}.{payload.number}").decode()

    def _verify(self, value: bytes) -> CookiePayload | None:
        """Return what a signed value says; None: no key of ours has signed it."""
        if not _SIGNED.fullmatch(value):
            return None
        payload, _, signature = value.rpartition(b".")
        for age, signer in enumerate(self._signers):
            # Signing again and comparing every byte: base64 has several spellings of one signature, we issue one.
            if hmac.compare_digest(signer.get_signature(payload), signature):
                session_id, _, number = payload.decode().rpartition(".")
                return CookiePayload.of(session_id, int(number), stale=age > 0)
        return None

    def _refuse(self, values: Sequence[bytes]) -> Sequence[CookiePayload]:
        """Return nothing, and tell of it if there was something to verify."""
        if self.on_refused is not None and any(values):
            self.on_refused()
        return ()


class SessionCookie(_Signed):
    """Reads and writes one session cookie with fixed attributes.

    `keys` are newest first: the first signs, all verify. `https_only=None` means Secure whenever the request came
    over https, and always where browsers insist on it. Raises ConfigurationError for what a browser would refuse.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        name: str,
        path: str,
        same_site: str,
        https_only: bool | None,
        domain: str | None,
        partitioned: bool,
    ) -> None:
        check_name("session_cookie", name)
        if same_site not in _SAME_SITE:
            raise ConfigurationError(f"same_site={same_site!r} must be one of {', '.join(_SAME_SITE)}")
        if not isinstance(path, str) or not path.startswith("/") or not _ATTRIBUTE.fullmatch(path):
            raise ConfigurationError(f"path={path!r} must begin with / and hold no control character or semicolon")
        if domain is not None and not (isinstance(domain, str) and _ATTRIBUTE.fullmatch(domain)):
            raise ConfigurationError(f"domain={domain!r} is not a valid cookie domain")
        if https_only not in (True, False, None) or partitioned not in (True, False):
            raise ConfigurationError("https_only must be True, False or None, and partitioned True or False")
        lowered = name.lower()
        why_secure = [
            reason
            for reason, applies in (
                ("a cookie name beginning __Host-", lowered.startswith("__host-")),
                ("a cookie name beginning __Secure-", lowered.startswith("__secure-")),
                ('same_site="none"', same_site == "none"),
                ("partitioned=True", partitioned),
            )
            if applies
        ]
        if why_secure and https_only is False:
            raise ConfigurationError(f"{why_secure[0]} needs https_only=True: browsers refuse the cookie otherwise")
        if lowered.startswith("__host-") and (path != "/" or domain is not None):
            raise ConfigurationError('a cookie name beginning __Host- needs path="/" and no domain')

        super().__init__(keys, header="set-cookie")
        self.name = name
        self._name = name.encode()
        self.https_only: bool | None = True if why_secure else https_only
        # A browser sends the same cookies with all its requests, a page's at once.
        self._read_again = functools.lru_cache(_REMEMBERED)(self._read)
        self._attributes = f"; Path={path}"
        if domain is not None:
            self._attributes += f"; Domain={domain}"
        self._attributes += f"; HttpOnly; SameSite={same_site}"
        if partitioned:
            self._attributes += "; Partitioned"

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> Sequence[CookiePayload]:
        """Return what the cookies of this name say, of those that verify, in the browser's order, each id once.

        A browser sends several of one name when they were set for several paths or domains. Only the first four ids
        count: nobody honest has more, and each may cost a read of the store. Of one id, what expires last counts,
        and the highest version of all: a lifetime may have become shorter.
        """
        cookies = cookies_of(self._name, headers)
        if not cookies:
            return ()
        payloads = self._read_again(cookies) if len(cookies) <= _REMEMBERED_SIZE else self._read(cookies)
        return payloads or (() if self.on_refused is None else self._refuse(values_of(self._name, cookies)))

    def _read(self, cookies: bytes) -> Sequence[CookiePayload]:
        """Return what the cookies say, without what `read` remembers."""
        payloads: dict[str, CookiePayload] = {}
        for value in values_of(self._name, cookies):
            payload = self._verify(value)
            if payload is None:
                continue
            known = payloads.get(payload.session_id)
            if known is None and len(payloads) == MAX_CANDIDATES:
                continue
            payloads[payload.session_id] = payload if known is None else _of_both(known, payload)
        return tuple(payloads.values())

    def issue(self, payload: CookiePayload, *, now: int, secure: bool) -> str:
        """Return the Set-Cookie value that tells a browser this. `now` in epoch seconds: Max-Age counts from then."""
        lifetime = "" if payload.expires_at is None else f"; Max-Age={max(0, payload.expires_at - now)}"
        return f"{self.name}={self._sign(payload)}{lifetime}{self._attributes}{self._secure(secure=secure)}"

    def expire(self, *, secure: bool, name: str | None = None) -> str:
        """Return the Set-Cookie value that removes the cookie: the same attributes, or a browser keeps it.

        `name` is that of another cookie with these attributes.
        """
        past = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        return f"{name or self.name}={past}{self._attributes}{self._secure(secure=secure)}"

    def _secure(self, *, secure: bool) -> str:
        return "; Secure" if (secure if self.https_only is None else self.https_only) else ""


class SessionHeader(_Signed):
    """Reads and writes the header that carries a session instead of the cookie, both ways, in requests that have it.

    `keys` as the cookie's. Raises ConfigurationError for a name that is no header's, or that of one with a meaning.
    """

    def __init__(self, keys: Sequence[str], *, name: str) -> None:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigurationError(f"session_header={name!r} is not a valid header name")
        if re.fullmatch(_TAKEN, name.lower()):
            raise ConfigurationError(
                f"session_header={name!r} has a meaning of its own in HTTP: choose another name, like X-Session-Token"
            )
        super().__init__(keys, header=name.lower())

    def is_in(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request has this header, be it empty."""
        return any(name == self.header for name, _ in headers)

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> Sequence[CookiePayload]:
        """Return what the header says, if it verifies. One that comes twice says nothing, as does an empty one."""
        values = [value.strip(_BLANKS) for name, value in headers if name == self.header]
        payload = self._verify(values[0]) if len(values) == 1 else None
        return self._refuse(values) if payload is None else (payload,)

    def issue(self, payload: CookiePayload, *, now: int, secure: bool) -> str:  # noqa: ARG002 - as the cookie's
        """Return the header's value that tells a client this."""
        return self._sign(payload)

    def expire(self, *, secure: bool) -> str:  # noqa: ARG002 - as the cookie's
        """Return the value that tells the client to forget its token."""
        return ""


def _of_both(one: CookiePayload, other: CookiePayload) -> CookiePayload:
    """Return what two cookies of one session say. The browser has seen the higher of two versions."""
    told = other if (one.stale, other.number) > (other.stale, one.number) else one
    return replace(told, version=max(one.version, other.version)) if told.version else told


def _signer(key: str) -> Signer:
    """Return what signs with a key derived from this one for cookies alone: derived once, not at every signature."""
    derived = Signer(key, salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()
    return Signer(derived, key_derivation="none", algorithm=_HMAC(derived))


class _HMAC(SigningAlgorithm):
    """itsdangerous's own, with one key, begun once: a copy is sooner made than another one."""

    def __init__(self, key: bytes) -> None:
        self._begun = hmac.new(key, digestmod="sha256")

    def get_signature(self, key: bytes, value: bytes) -> bytes:  # noqa: ARG002
        signing = self._begun.copy()
        signing.update(value)
        return signing.digest()


def check_name(parameter: str, name: object) -> None:
    """Raise ConfigurationError if it is no name of a cookie."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(f"{parameter}={name!r} is not a valid cookie name")


def cookies_of(name: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return all cookies of a request, if one of this name may be among them."""
    # The name alone: it may be followed by blanks.
    return b";".join([value for header, value in headers if header == b"cookie" and name in value])


def values_of(name: bytes, cookies: bytes) -> list[bytes]:
    """Return the values of the cookies of a name, in the browser's order.

    Blanks around a name or a value are no part of it, nor are quotes around a value. Source: RFC 6265, sections 4.1.1
    and 5.2, and Starlette's own `cookie_parser`. Its escapes within quotes are of no use to values that need none.
    """
    values = []
    for pair in cookies.split(b";"):
        found, equals, value = pair.partition(b"=")
        if equals and found.strip(_BLANKS) == name:
            value = value.strip(_BLANKS)
            is_quoted = len(value) > 1 and value[:1] == value[-1:] == b'"'
            values.append(value[1:-1] if is_quoted else value)
    return values

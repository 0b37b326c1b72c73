import hashlib
import itertools
import tracemalloc
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from itsdangerous import Signer
from starlette.requests import cookie_parser

from dynamodb_sessions import ConfigurationError
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.web.cookie import MAX_VERSION, CookiePayload, SessionCookie

OLD, NEW = "an-older-key-of-more-than-thirty-two-bytes", "the-newest-key-of-more-than-thirty-two-bytes"
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def a_cookie(*keys: str, **options: Any) -> SessionCookie:
    given = {
        "name": "session_id",
        "path": "/",
        "same_site": "lax",
        "https_only": None,
        "domain": None,
        "partitioned": False,
    }
    return SessionCookie(keys or (NEW,), **given | options)


def value_of(set_cookie: str) -> str:
    return set_cookie.partition("=")[2].partition(";")[0]


NOW = 1_800_000_000
FIRST_TIME = 1_704_067_200
"""The first of January 2024."""


def issue(cookie: SessionCookie, name: str, version: int = 1, *, max_age: int | None = 60, secure: bool = False) -> str:
    expires_at = None if max_age is None else NOW + max_age
    return cookie.issue(CookiePayload(name, version, expires_at), now=NOW, secure=secure)


def read(cookie: SessionCookie, *headers: str) -> list[CookiePayload]:
    return list(cookie.read([(b"cookie", header.encode("latin-1")) for header in headers]))


def test_what_was_issued_is_read() -> None:
    cookie, name = a_cookie(), new_id()
    value = value_of(issue(cookie, name, 7))
    assert [CookiePayload(name, 7, NOW + 60)] == read(cookie, f"other=1; session_id={value}; more=2")


def test_it_is_read_wherever_it_stands_and_however_often() -> None:
    cookie, name = a_cookie(), new_id()
    ours = issue(cookie, name, 7).partition(";")[0]
    for headers in (
        (ours,),
        (f"other=1;{ours}",),
        ("other=1", ours, "session_id=forged"),
        (f"a={'x' * 9000}; {ours}; b={'y' * 9000}",),
    ):
        for _ in range(2):
            assert [CookiePayload(name, 7, NOW + 60)] == read(cookie, *headers)
    assert read(cookie, "session_id=forged", "other=1") == []


def test_large_cookies_are_not_kept() -> None:
    cookie = a_cookie()
    tracemalloc.start()
    for number in range(100):
        read(cookie, f"session_id={number}; a={'x' * 50_000}")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000


def test_attributes_are_the_same_for_issuing_and_expiring() -> None:
    cookie = a_cookie(path="/app", domain="example.com", same_site="none", partitioned=True, https_only=True)
    attributes = "; Path=/app; Domain=example.com; HttpOnly; SameSite=none; Partitioned; Secure"
    issued = issue(cookie, new_id())
    assert f"; Max-Age=60{attributes}" == issued[issued.index(";") :]
    past = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert f"session_id={past}{attributes}" == cookie.expire(secure=False)


def test_a_browser_session_has_no_max_age() -> None:
    assert "Max-Age" not in issue(a_cookie(), new_id(), max_age=None)


@pytest.mark.parametrize(
    ("https_only", "secure", "expected"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_secure_follows_the_scheme_unless_it_is_told(https_only: bool | None, secure: bool, expected: bool) -> None:
    issued = issue(a_cookie(https_only=https_only), new_id(), 1, max_age=1, secure=secure)
    assert expected == ("; Secure" in issued)


@pytest.mark.parametrize(
    "options", [{"name": "__Host-id"}, {"name": "__Secure-id"}, {"same_site": "none"}, {"partitioned": True}], ids=str
)
def test_secure_is_always_there_where_browsers_insist_on_it(options: dict[str, Any]) -> None:
    assert "; Secure" in issue(a_cookie(**options), new_id())
    with pytest.raises(ConfigurationError, match="https_only"):
        a_cookie(**options, https_only=False)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "__Host-id", "path": "/app"},
        {"name": "__host-id", "domain": "example.com"},
        *({"name": name} for name in ("", "a b", "a=b", "a;b", "é", "a\n")),
        *({"path": path} for path in ("", "app", "/a;b", "/a\r\nSet-Cookie: x", "/é")),
        *({"domain": domain} for domain in ("", "a;b", "a\nb")),
        *({"same_site": same_site} for same_site in ("", "Lax", "any", None)),
    ],
    ids=str,
)
def test_what_a_browser_would_refuse_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        a_cookie(**options)


def test_an_older_key_verifies_and_is_told() -> None:
    name = new_id()
    value = value_of(issue(a_cookie(OLD), name, 3))
    assert [CookiePayload(name, 3, NOW + 60, stale=True)] == read(a_cookie(NEW, OLD), f"session_id={value}")
    assert read(a_cookie(NEW), f"session_id={value}") == []
    value = value_of(issue(a_cookie(NEW, OLD), name, 3))
    assert [CookiePayload(name, 3, NOW + 60)] == read(a_cookie(NEW), f"session_id={value}")


def test_every_single_change_of_a_character_is_refused() -> None:
    """The last character of a base64 signature has spare bits: four spellings decode alike, one was issued."""
    cookie = a_cookie()
    value = value_of(issue(cookie, new_id(), 12))
    for position in range(len(value)):
        for character in BASE64 + ".=+/ \"'%\0":
            changed = value[:position] + character + value[position + 1 :]
            if changed != value:
                assert read(cookie, f"session_id={changed}") == []
        assert read(cookie, f"session_id={value[:position]}") == []


def test_only_our_own_salt_and_digest_count() -> None:
    name = new_id()
    for options in ({}, {"salt": b"another"}, {"key_derivation": "hmac"}, {"digest_method": hashlib.sha512}):
        signed = Signer(NEW, **options).sign(f"{name}.1").decode()
        assert read(a_cookie(), f"session_id={signed}") == []


@pytest.mark.parametrize(
    "header",
    [
        *("", "session_id", "session_id=", "session_id=.", "session_id=null", "xsession_id={value}"),
        *('session_id="{value}', 'session_id={value}"', 'session_id=""{value}""', 'session_id="', 'session_id=""'),
        *('session_id=" {value}"', "session_id='{value}'", '"session_id"={value}', "session id={value}"),
        *("session_id={value}.", "SESSION_ID={value}", "session_id={value} x", "x session_id={value}"),
        *("session_id=" + "x" * 8192, "session_id={value}\0", "\xff\xfe=;session_id=\xff", "session_id={value},a"),
    ],
    ids=lambda header: header[:24],
)
def test_other_spellings_are_no_cookie(header: str) -> None:
    cookie = a_cookie()
    value = value_of(issue(cookie, new_id()))
    assert read(cookie, header.replace("{value}", value)) == []


@pytest.mark.parametrize(
    "header",
    [
        *('session_id="{value}"', "session_id= {value}", "session_id ={value}", "session_id\t=\t{value}\t"),
        *('  session_id  =  "{value}"  ', 'a="session_id"; session_id = {value}', "a=1;session_id ={value};b=2"),
    ],
)
def test_quotes_and_blanks_around_it_are_read_as_starlette_reads_them(header: str) -> None:
    cookie, name = a_cookie(), new_id()
    value = value_of(issue(cookie, name))
    header = header.replace("{value}", value)
    assert cookie_parser(header)["session_id"] == value
    assert [CookiePayload(name, 1, NOW + 60)] == read(cookie, "other=1", header)


def test_of_several_each_that_verifies_counts_once_and_at_most_four() -> None:
    cookie = a_cookie()
    names = [new_id() for _ in range(6)]
    values = [value_of(issue(cookie, name)) for name in names]
    first, second, *more = (f"session_id={value}" for value in values)
    found = read(cookie, f"{first}; session_id=forged; {first}", second)
    assert names[:2] == [ticket.session_id for ticket in found]
    assert names[:4] == [ticket.session_id for ticket in read(cookie, "; ".join((first, second, *more)))]


@pytest.mark.parametrize("max_ages", [(3600, 60), (60, 3600)])
def test_of_several_of_one_session_the_highest_version_was_seen(max_ages: tuple[int, int]) -> None:
    """Two domains or paths have one each, and the lifetime has become shorter, or longer, between."""
    cookie, name = a_cookie(), new_id()
    values = [value_of(issue(cookie, name, version, max_age=max_ages[version - 3])) for version in (3, 4)]
    for order in (values, values[::-1]):
        found = read(cookie, "; ".join(f"session_id={value}" for value in order))
        assert found == [CookiePayload(name, 4, NOW + 3600)]


def test_what_keeps_no_version_and_was_told_last_is_believed() -> None:
    cookie, name = a_cookie(), new_id()
    values = [value_of(issue(cookie, name, version, max_age=max_age)) for version, max_age in ((3, 60), (0, 3600))]
    assert read(cookie, "; ".join(f"session_id={value}" for value in values)) == [CookiePayload(name, 0, NOW + 3600)]


def test_no_repr_shows_an_id() -> None:
    name = new_id()
    assert name not in repr(CookiePayload(name))


@hypothesis.given(
    version=st.integers(0, MAX_VERSION), expires_at=st.none() | st.integers(FIRST_TIME + 2, FIRST_TIME + 10**9 - 1)
)
def test_a_number_says_when_the_browser_forgets_it_and_what_it_has_seen(version: int, expires_at: int | None) -> None:
    told = CookiePayload("id", version, expires_at)
    assert CookiePayload.of("id", told.number, stale=False) == told


@pytest.mark.parametrize("expires_at", [None, -(10**18), 0, 1, FIRST_TIME - 1, FIRST_TIME, 10**10, 10**18])
@pytest.mark.parametrize("version", [0, 1, MAX_VERSION])
def test_the_version_before_verifies_whatever_it_says(version: int, expires_at: int | None) -> None:
    """It takes a number of at most 15 digits for a version, and has never had one of a million."""
    number = CookiePayload("id", version, expires_at).number
    assert MAX_VERSION < number < 10**15
    assert CookiePayload.of("id", number, stale=False).version == version
    cookie, name = a_cookie(), new_id()
    (payload,) = read(cookie, cookie.issue(CookiePayload(name, version, expires_at), now=0, secure=True))
    assert (payload.number, payload.stale) == (number, False)


@pytest.mark.parametrize("version", [0, 1, MAX_VERSION])
def test_what_the_version_before_told_is_a_version_and_stale(version: int) -> None:
    assert CookiePayload.of("id", version, stale=False) == CookiePayload("id", version, stale=True)


def test_a_cookie_that_has_expired_by_the_servers_clock_is_told_no_age_below_zero() -> None:
    assert "; Max-Age=0;" in a_cookie().issue(CookiePayload(new_id(), 1, NOW - 1), now=NOW, secure=True)


def test_of_one_id_the_cookie_counts_that_was_told_last_and_the_highest_version() -> None:
    cookie, name, other = a_cookie(NEW, OLD), new_id(), new_id()
    ours = [issue(cookie, name, 3), issue(cookie, name, 2), issue(cookie, name, 9, max_age=59)]
    ours += [issue(a_cookie(OLD), name, 5, max_age=99), issue(cookie, name, 9, max_age=None)]
    for order in itertools.permutations([each.partition(";")[0] for each in [*ours, issue(cookie, other)]]):
        found = {each.session_id: each for each in read(cookie, "; ".join(order))}
        assert found == {name: CookiePayload(name, 9, NOW + 60), other: CookiePayload(other, 1, NOW + 60)}

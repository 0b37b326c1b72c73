"""The Lambda example as it is shipped: its zip, unpacked, in fresh processes, sent the events of API Gateway."""

import os
import re
import runpy
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest
from packaging.requirements import Requirement

from benchmarks import cold_start
from dynamodb_sessions.stores import table_schema
from tests.conftest import KEY
from tests.helpers.mangum import Event, http_api, rest_api

pytestmark = pytest.mark.slow

EXAMPLE = cold_start.EXAMPLE


@pytest.fixture(scope="module")
def function(function_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("function")
    with zipfile.ZipFile(function_zip) as packed:
        packed.extractall(folder)
    return folder


@pytest.fixture
def environment(moto_url: str, dynamodb: Any, table_name: str) -> dict[str, str]:
    table_schema.create(dynamodb, table_name)
    return {
        **os.environ,
        "AWS_DEFAULT_REGION": "us-east-1",  # Lambda sets it.
        "USE_DYNAMODB_SESSIONS": "true",
        "SESSION_TABLE_NAME": table_name,
        "SESSION_SECRET_KEY": KEY,
        "DYNAMODB_ENDPOINT_URL": moto_url,
    }


def cookie_of(response: Event) -> str:
    cookies = response.get("cookies") or [response["headers"]["set-cookie"]]
    return str(cookies[0]).partition(";")[0]


def test_a_session_survives_a_cold_start_and_a_change_of_gateway(function: Path, environment: dict[str, str]) -> None:
    first = cold_start.start(function, [http_api("GET", "/", [], "")], environment)
    cookie = cookie_of(first.responses[0])
    assert "Secure" in first.responses[0]["cookies"][0]
    second = cold_start.start(
        function, [http_api("GET", "/", [cookie], ""), rest_api("GET", "/", [cookie], "")], environment
    )
    answers = [response["body"] for response in (*first.responses, *second.responses)]
    assert answers == [f"You have been here {count} times." for count in (1, 2, 3)]


def test_all_it_needs_is_in_the_zip_but_for_what_lambda_has(function: Path, environment: dict[str, str]) -> None:
    process = cold_start.start(function, [http_api("GET", "/", [], "")], environment)
    for name in ("starlette", "itsdangerous", "mangum", "dynamodb_sessions"):
        assert process.modules[name].startswith(str(function))


def test_it_is_measured_as_on_lambda_where_nothing_compiled_is_kept(
    function: Path, environment: dict[str, str]
) -> None:
    cold_start.start(function, [], environment)
    assert not list(function.rglob("__pycache__"))


def test_the_key_may_be_a_parameter(function: Path, environment: dict[str, str], moto_url: str) -> None:
    parameters = boto3.client("ssm", endpoint_url=moto_url, region_name="us-east-1")
    parameters.put_parameter(Name="/visits/session-secret-key", Type="SecureString", Value=KEY)
    named = {
        **environment,
        "SESSION_SECRET_KEY": "",
        "SESSION_SECRET_KEY_PARAMETER": "/visits/session-secret-key",
        "AWS_ENDPOINT_URL_SSM": moto_url,
    }
    cookie = cookie_of(cold_start.start(function, [http_api("GET", "/", [], "")], named).responses[0])
    (response,) = cold_start.start(function, [http_api("GET", "/", [cookie], "")], environment).responses
    assert response["body"] == "You have been here 2 times."


def test_the_same_files_make_the_same_zip(function_zip: Path, tmp_path: Path) -> None:
    again = cold_start.make_zip(tmp_path / "again.zip")
    assert again.read_bytes() == function_zip.read_bytes()
    assert not any("__pycache__" in name or name.startswith("boto") for name in zipfile.ZipFile(again).namelist())


def test_everything_is_pinned_by_hash_and_boto3_is_lambdas() -> None:
    wanted = {line.split("#")[0].strip() for line in (EXAMPLE / "requirements.in").read_text().splitlines()} - {""}
    project = tomllib.loads((EXAMPLE.parent.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {Requirement(each).name for each in project} - {"boto3"} <= wanted
    pinned = re.findall(
        r"^([\w-]+)==\S+((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$",
        (EXAMPLE / "requirements.txt").read_text(),
        re.MULTILINE,
    )
    assert wanted <= {name.replace("-", "_") for name, _ in pinned}
    assert all(hashes for _, hashes in pinned)
    assert not any(name.startswith("boto") for name, _ in pinned)


def test_a_compiled_package_is_that_of_the_named_platform(tmp_path: Path) -> None:
    requirements = tmp_path / "mine.txt"
    requirements.write_text(
        "markupsafe==3.0.3 --hash=sha256:133a43e73a802c5562be9bbcd03d090aa5a1fe899db609c29e8c8d815c5f6de6\n"
    )
    package = runpy.run_path(str(EXAMPLE / "package.py"))
    package["install_pinned"](tmp_path / "made", requirements, "manylinux2014_aarch64", "3.13")
    (library,) = (tmp_path / "made" / "markupsafe").glob("*.so")
    assert library.name == "_speedups.cpython-313-aarch64-linux-gnu.so"

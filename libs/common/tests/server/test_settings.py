"""Secrets come from files, and what is set to nothing is not set."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from wardmesh.server.settings import ServiceSettings, with_password

REQUIRED = {
    "WARDMESH_NATS_URL": "nats://one:4222, nats://two:4222",
    "WARDMESH_NATS_SEED_FILE": "/nowhere",
    "WARDMESH_DATABASE_URL": "postgresql://wardmesh_auth@postgres:5432/wardmesh?sslmode=disable",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_password_is_read_from_its_file_and_stays_out_of_sight(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/w:ord\n")
    environment.setenv("WARDMESH_DATABASE_PASSWORD_FILE", str(file))
    settings = ServiceSettings()
    assert settings.database() == ("postgresql://wardmesh_auth:p%40ss%2Fw%3Aord@postgres:5432/wardmesh?sslmode=disable")
    assert urlsplit(settings.database()).hostname == "postgres"
    assert "p@ss" not in repr(settings)


def test_without_a_file_the_url_is_taken_as_it_is(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WARDMESH_DATABASE_URL", "postgresql://role:word@/wardmesh?host=/run/postgres&port=5432")
    assert ServiceSettings().database() == "postgresql://role:word@/wardmesh?host=/run/postgres&port=5432"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://role@host/db", "postgresql://role:new@host/db"),
        ("postgresql://role:old@host:5433/db", "postgresql://role:new@host:5433/db"),
        ("postgresql://role@/db?host=/run", "postgresql://role:new@/db?host=/run"),
        ("postgresql://role@[::1]:5432/db", "postgresql://role:new@[::1]:5432/db"),
    ],
)
def test_a_password_goes_between_role_and_host(url: str, expected: str) -> None:
    assert with_password(url, "new") == expected


def test_a_variable_that_is_set_to_nothing_is_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WARDMESH_OTLP_ENDPOINT", "")
    environment.setenv("WARDMESH_STREAM_REPLICAS", "")
    settings = ServiceSettings()
    assert settings.otlp_endpoint is None
    assert settings.stream_replicas == 1
    environment.setenv("WARDMESH_NATS_URL", "")
    with pytest.raises(ValidationError, match="nats_url"):
        ServiceSettings()

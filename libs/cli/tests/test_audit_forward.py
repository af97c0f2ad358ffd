"""`wardmesh audit forward`: what is asked for, what is shown, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_shell import Shell
from fake_audit import NOW
from fake_mesh import World

from wardmesh.contracts.audit import Filter, ForwarderProbe, ForwarderState, ForwardFormat, Outcome
from wardmesh.contracts.operation import Category

URL = "https://siem.example/in?key=hidden-path"


def test_what_is_added_goes_on_from_where_it_was_told(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    ran = wardmesh(
        "audit", "forward", "add", "siem", URL, "--secret-file", str(secret), "--header", "X-Key", "--start", "7",
        "--category", "authentication", "--outcome", "refused",
    )  # fmt: skip
    assert ran.out == "siem: ok, to https://siem.example:443, from entry 7 on\n"
    (asked,) = world.asked_to_forward
    assert (asked.url, asked.secret, asked.secret_header, asked.start) == (URL, "s3cret", "X-Key", 7)
    assert asked.filter == Filter(category=Category.AUTHENTICATION, outcome=Outcome.REFUSED)
    assert asked.format is ForwardFormat.OCSF
    shown = ran.out + ran.err + wardmesh("audit", "forward", "list").out
    shown += wardmesh("audit", "forward", "list", "--json").out
    assert "s3cret" not in shown
    assert "hidden-path" not in shown


def test_what_is_named_is_changed_and_nothing_else(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    wardmesh("audit", "forward", "add", "siem", URL, "--start", "7", "--category", "authentication")
    ran = wardmesh("audit", "forward", "edit", "siem", "--format", "entry")
    assert ran.out == "siem: ok, to https://siem.example:443, from entry 7 on\n"
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    asks = "--to", "https://other.example/hidden-path", "--secret-file", str(secret), "--header", "X-Key"
    ran = wardmesh("audit", "forward", "edit", "siem", *asks, "--outcome", "refused")
    assert ran.out == "siem: ok, to https://other.example:443, from entry 7 on\n"
    assert "s3cret" not in ran.out + ran.err
    assert "hidden-path" not in ran.out + ran.err
    wardmesh("audit", "forward", "edit", "siem", "--everything", "--no-secret")
    assert [each.model_dump(exclude_defaults=True, exclude={"name"}) for each in world.asked_to_edit] == [
        {"format": ForwardFormat.ENTRY},
        {"url": asks[1], "secret": "s3cret", "secret_header": "X-Key", "filter": {"outcome": Outcome.REFUSED}},
        {"without_secret": True, "filter": {}},
    ]


def test_a_certificate_is_read_from_files_and_not_shown(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    certificate, key = tmp_path / "client.pem", tmp_path / "client-key.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    files = "--client-certificate", str(certificate), "--client-key", str(key)
    ran = wardmesh("audit", "forward", "add", "ops", "syslog+tls://syslog.example", *files)
    ran = wardmesh("audit", "forward", "edit", "ops", *files)
    assert "BEGIN" not in ran.out + ran.err
    wardmesh("audit", "forward", "edit", "ops", "--no-client-certificate")
    for asked in (world.asked_to_forward[0], world.asked_to_edit[0]):
        assert (asked.client_certificate, asked.client_key) == (certificate.read_text(), key.read_text())
    assert world.asked_to_edit[1].without_client_certificate
    key.write_bytes(b"x" * 4097)
    assert (ran := wardmesh("audit", "forward", "edit", "ops", *files)).status == 2
    assert "more than 4096 bytes" in ran.err
    key.write_bytes(b"\xff")
    assert "not PEM" in wardmesh("audit", "forward", "edit", "ops", *files).err
    key.unlink()
    assert (ran := wardmesh("audit", "forward", "edit", "ops", *files)).status == 2
    assert "does not exist" in ran.err
    assert "come together" in wardmesh("audit", "forward", "edit", "ops", *files[:2]).err


@pytest.mark.parametrize(
    ("asked", "said"),
    [((), "nothing is named"), (("--everything", "--action", "a.b"), "contradict"), (("--to", "http://x"), "https://host"),
     (("--header", "X-Key"), "there is none"), (("--action", ""), "cannot be searched")],
)  # fmt: skip
def test_a_change_that_is_none_is_refused_before_it_is_sent(
    wardmesh: Shell, world: World, asked: tuple[str, ...], said: str
) -> None:
    wardmesh("audit", "forward", "add", "siem", URL)
    ran = wardmesh("audit", "forward", "edit", "siem", *asked)
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert world.asked_to_edit == []


@pytest.mark.parametrize("url", ["http://siem.example/", "siem.example", "https://user:pw@siem.example/"])
def test_an_address_that_is_none_is_refused_before_it_is_sent(wardmesh: Shell, world: World, url: str) -> None:
    assert wardmesh("audit", "forward", "add", "siem", url).status != 0
    assert world.forwarders == {}


def test_the_list_says_how_far_and_what_is_wrong(wardmesh: Shell, world: World) -> None:
    for _ in range(9):
        world.log("secret.get")
    wardmesh("audit", "forward", "add", "siem", URL, "--start", "2", "--format", "entry")
    trouble = {"state": ForwarderState.RETRYING, "last_error": "http_503", "failing_since": NOW, "failures": 3}
    world.forwarders["siem"] = world.forwarders["siem"].model_copy(update=trouble)
    lines = wardmesh("audit", "forward", "list").out
    for word in ("siem", "https://siem.example:443", "retrying", "http_503", "7"):
        assert word in lines
    (listed,) = wardmesh("audit", "forward", "list", "--json").json["forwarders"]
    assert (listed["state"], listed["next_start"], listed["size"], listed["failures"]) == ("retrying", 2, 9, 3)


def test_one_is_paused_resumed_and_removed(wardmesh: Shell, world: World) -> None:
    wardmesh("audit", "forward", "add", "siem", URL)
    assert "siem: stopped" in wardmesh("audit", "forward", "pause", "siem").out
    assert wardmesh("audit", "forward", "resume", "siem", "--json").json["state"] == "ok"
    assert wardmesh("audit", "forward", "pause", "nobody").status == 1
    assert wardmesh("audit", "forward", "edit", "nobody", "--no-secret").status == 1
    assert wardmesh("audit", "forward", "remove", "siem").out == "nothing is sent on to siem any more\n"
    assert world.forwarders == {}


def test_a_test_says_what_became_of_it(wardmesh: Shell, world: World) -> None:
    wardmesh("audit", "forward", "add", "siem", URL)
    assert "nothing was sent" in wardmesh("audit", "forward", "test", "siem").out
    world.probed = ForwarderProbe(index=4)
    assert wardmesh("audit", "forward", "test", "siem").out == "entry 4 was taken\n"
    world.probed = ForwarderProbe(index=4, error="not_public")
    ran = wardmesh("audit", "forward", "test", "siem")
    assert (ran.status, "WARDMESH_AUDIT_FORWARD_ALLOW" in ran.err) == (1, True)

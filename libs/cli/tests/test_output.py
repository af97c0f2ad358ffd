"""What is shown is plain in a pipe, and nothing that came from elsewhere can play with a terminal."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wardmesh_cli.output import BAD, Output, Styled, to_json

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOSTILE = "name\x1b]0;title\x07\x1b[31m\x9b2J\u202egnp\r\n"


def output(*, terminal: bool = False, no_color: bool = False, as_json: bool = False) -> tuple[Output, io.StringIO]:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=terminal, no_color=no_color, width=100, highlight=False, markup=False, emoji=False
    )
    return Output(as_json=as_json, out=console, err=console), stream


def test_a_table_in_a_pipe_has_padded_columns_and_nothing_else() -> None:
    out, stream = output()
    out.table(("id", "state"), [("a", Styled("revoked", BAD)), ("bcd", None), (7, NOW)])
    assert stream.getvalue() == "ID   STATE\na    revoked\nbcd  -\n7    2026-11-22 12:00:00Z\n"


def test_what_is_too_wide_is_folded_where_it_is_prose_and_an_id_stays_in_one_piece() -> None:
    identifier, prose = "agt_" + "0" * 26, "the key has expired or was revoked " * 3
    out, stream = output(terminal=True, no_color=True)
    out.table(("id", "reason"), [(identifier, prose)])
    folded = re.sub("\x1b\\[[0-9]*m", "", stream.getvalue())
    assert all(len(line) <= 100 for line in folded.splitlines())
    assert folded.split() == ["id", "reason", identifier, *prose.split()]
    out, stream = output(terminal=True, no_color=True)
    out.table(("a", "b", "c", "d"), [(identifier,) * 4])
    assert stream.getvalue().count(identifier) == 4


def test_colour_is_for_terminals_that_want_it() -> None:
    out, stream = output(terminal=True)
    out.table(("state",), [(Styled("revoked", BAD),)])
    out.line("failed", BAD)
    assert "\x1b[31mrevoked\x1b[0m" in stream.getvalue()
    assert "\x1b[31mfailed\x1b[0m" in stream.getvalue()
    plain, stream = output(terminal=True, no_color=True)
    plain.table(("state",), [(Styled("revoked", BAD),)])
    plain.line("failed", BAD)
    assert "\x1b[31m" not in stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_that_is_shown_can_play_with_a_terminal(terminal: bool) -> None:
    out, stream = output(terminal=terminal, no_color=True)
    out.table(("name",), [(HOSTILE,), (Styled(HOSTILE, ""),)])
    out.facts({"name": HOSTILE})
    out.line(HOSTILE)
    out.note(HOSTILE)
    out.parts(Styled(HOSTILE, ""), Styled(HOSTILE, BAD))
    shown = stream.getvalue()
    # What rich itself writes on a terminal is dimming, bold, and back.
    for own in ("\x1b[2m", "\x1b[1m", "\x1b[0m"):
        shown = shown.replace(own, "")
    assert not set(shown) & set("\x1b\x07\x9b\u202e\r")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_json_and_harmless(value: object) -> None:
    text = to_json({"value": value})
    assert json.loads(text) == {"value": value}
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in text)


def test_json_of_times() -> None:
    assert to_json({"at": NOW}) == '{"at":"2026-11-22T12:00:00Z"}'


def test_raw_bytes_are_left_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    Output().raw(b"\x00\xff")
    assert capfdbinary.readouterr().out == b"\x00\xff"

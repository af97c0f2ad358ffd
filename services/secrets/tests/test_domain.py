from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from wardmesh.contracts import secrets as contracts
from wardmesh.contracts.operation import Level
from wardmesh.contracts.secrets import PathPattern, SecretPath
from wardmesh_secrets.domain import MAY_WRITE, covers, patterns_covering, reads_all, sees_all_names

# Few letters, so that one name is often the beginning of another.
names = st.text("ab.-", min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=5).map("/".join)
patterns = st.builds(lambda path, below: path + below, paths, st.sampled_from(["", "/*"]))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a", "a", True),
        ("a", "a/b", False),
        ("a", "ab", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", True),
        ("a/*", "a", False),
        ("a/*", "ab", False),
        ("a/*", "ab/c", False),
        ("a/*", "b/a/c", False),
        ("a/b/*", "a/b", False),
        ("a/b/*", "a/bc/d", False),
        ("a/b", "a/b", True),
        (".", "a", False),
        ("a.b", "axb", False),
        ("./*", "./a", True),
        ("../*", "a/b", False),
    ],
)
def test_what_a_pattern_covers(pattern: str, path: str, expected: bool) -> None:
    assert covers(pattern, path) is expected
    assert (pattern in patterns_covering(path)) is expected


@given(patterns, paths)
def test_covering_patterns_are_exactly_those_that_cover(pattern: str, path: str) -> None:
    assert covers(pattern, path) == (pattern in patterns_covering(path))


@given(patterns, paths, names)
def test_a_pattern_below_covers_what_is_below_and_no_sibling(pattern: str, path: str, name: str) -> None:
    assert covers(path + "/*", f"{path}/{name}")
    assert not covers(path + "/*", path + name)
    assert not covers(path + "/*", path)


@given(paths)
def test_a_path_covers_itself_alone(path: str) -> None:
    assert covers(path, path)
    assert [pattern for pattern in patterns_covering(path) if not pattern.endswith("/*")] == [path]


@pytest.mark.parametrize("pattern", ["*", "/*", "a*", "a/*/b", "a/**", "*/a", "a//b", "", "a/", "a/*\n", "a b", "á"])
def test_no_other_wildcard_can_be_granted(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        TypeAdapter(PathPattern).validate_python(pattern)


@pytest.mark.parametrize("path", ["a/*", "/a", "a/", "a//b", "", "a\n", "a/" * 16 + "a" + "/b", "a" * 257])
def test_no_such_path(path: str) -> None:
    with pytest.raises(ValueError, match="string"):
        TypeAdapter(SecretPath).validate_python(path)


def test_levels() -> None:
    assert [level for level in Level if reads_all(level)] == [Level.ADMIN, Level.OWNER]
    assert getattr(contracts.PUT.access, "name", None) == MAY_WRITE
    assert sees_all_names(Level.OPERATOR, frozenset({MAY_WRITE}))
    assert sees_all_names(Level.ADMIN, frozenset())
    assert not sees_all_names(Level.OPERATOR, frozenset({"secret.read"}))

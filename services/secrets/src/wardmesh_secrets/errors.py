"""What the vault refuses, each an error of the common tree, so that callers need to know no other.

    PermissionDenied
    └── NotGranted          no grant covers the path; whether there is a secret is not said
    NotFound
    └── NoSuchSecret        the path is the caller's to read, and has no such version
    InvalidRequest
    └── NoHolderKey         the access token names no key to seal the answer to
    BodyTooLarge
    └── ValueTooLarge       what was sealed is over the limit
    Undecryptable
    ├── NotSealedForThis    a value was put that does not open with the key that it names, for this path and request
    └── StoredUnopenable    a stored value does not open in its own row: moved, damaged, or under another key

What always holds: no text names a path that the caller may not read, and none contains anything of a value.
"""

from __future__ import annotations

from wardmesh.errors import BodyTooLarge, InvalidRequest, NotFound, PermissionDenied, Undecryptable


class NotGranted(PermissionDenied):
    """No grant covers the path. It MUST be the same for a path that exists and for one that does not."""

    advice = "Ask an administrator of the workspace to grant you the path: wardmesh secret grant PATH PRINCIPAL."


class NoSuchSecret(NotFound):
    """The caller may read the path, and there is no such version of it."""

    advice = "Check the path and the version; `wardmesh secret list` shows what there is."


class NoHolderKey(InvalidRequest):
    """Values leave the vault sealed to the caller's own key only, and the access token names none."""

    title = "There is no key to seal the answer to"
    advice = "Ask for an access token that names your X25519 key (its claim `cnf`); the client library does it."


class ValueTooLarge(BodyTooLarge):
    """The value itself, once opened, is over the limit."""


class NotSealedForThis(Undecryptable):
    """The value does not open with the vault's key that it names, or was sealed for another path, caller or request."""

    advice = "Get the vault's present sealing key and seal the value anew, for this path and this request's id."


class StoredUnopenable(Undecryptable):
    """A stored value or key does not open in its own place."""

    title = "The stored value cannot be opened"
    advice = "It was moved or damaged, or this mesh runs with another key file: give the request id to your operator."

"""What auth refuses, each an error of the common tree, so that callers need to know no other.

    CredentialRefused
    ├── WrongPassword       no such user, or not this password; which of them is not said
    ├── KeyRefused          no such key, or not this secret, or expired or revoked
    ├── RefreshRefused      no such refresh token, or its session has ended
    └── RefreshReused       the refresh token was spent before: its session is revoked
    RefusedError
    ├── SignUpClosed        this mesh takes no new organizations
    ├── NotAMember          the principal holds no level in the scope that was asked for
    ├── BeyondOwnRights     the caller would give, or take from somebody, more than it holds
    └── NotAtHome           the principal is to be managed in the scope that it is at home in
    NotFound
    └── NoSuchPrincipal · NoSuchKey
    Conflict
    └── AddressTaken · LastOwner

What always holds: no text repeats a credential, and the texts of `CredentialRefused` are the same whether the user, the
key or the session exists or not.
"""

from __future__ import annotations

from wardmesh.errors import Conflict, CredentialRefused, NotFound, PermissionDenied, ScopeMismatch


class WrongPassword(CredentialRefused):
    """MUST be the same, and cost the same, for an unknown user and a wrong password."""

    advice = "Check the organization, the address and the password."


class KeyRefused(CredentialRefused):
    """The API key is mistyped, unknown, expired or revoked."""

    advice = "Check the API key; ask an administrator for a new one if it has expired or was revoked."


class RefreshRefused(CredentialRefused):
    """The refresh token is unknown, expired, or its session has ended."""

    advice = "Log in again."


class RefreshReused(CredentialRefused):
    """A refresh token that was spent came back, so somebody else may have it too; the session is revoked."""

    advice = "This refresh token was used before, so its session was ended for safety: log in again."


class SignUpClosed(PermissionDenied):
    """The operator of this mesh has closed it to new organizations."""

    advice = "This mesh takes no new organizations; ask its operator."


class NotAMember(ScopeMismatch):
    """The principal holds no level in the scope that the token was asked for."""

    title = "Not a member of the scope"
    advice = "Ask for a token of a scope that you are a member of (`scope`), or an administrator to make you one."


class BeyondOwnRights(PermissionDenied):
    """Nobody grants more than they hold, nor rules over somebody who holds more."""

    title = "That is more than you hold yourself"
    advice = "Ask somebody who holds at least what is to be granted."


class NotAtHome(PermissionDenied):
    """The principal belongs to another scope than the request's."""

    title = "The principal is at home in another scope"
    advice = "Ask in the scope that the principal is at home in (`wardmesh principal list` shows it)."


class NoSuchPrincipal(NotFound):
    """Nobody of that id can act in this scope."""

    advice = "Check the id; `wardmesh principal list` shows who can act in this scope."


class NoSuchKey(NotFound):
    """No API key of that id is for this scope."""

    advice = "Check the id; `wardmesh key list` shows the keys of this scope."


class AddressTaken(Conflict):
    """The organization has a user with that address already."""

    advice = "The organization has a user with that address; set that user's level instead."


class LastOwner(Conflict):
    """An organization without an owner could never have one again."""

    advice = "This is the organization's last owner; make somebody else an owner first."

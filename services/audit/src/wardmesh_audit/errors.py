"""What goes wrong in the log.

    MalformedEnvelope       a message that is not an envelope; it becomes a dead letter, never an answer
    RequestError
    └── MalformedCheckpoint   what a witness was asked is no add-checkpoint request
    InvalidRequest
    └── Inconsistent        a log's checkpoint does not extend the one that was cosigned before
    RefusedError
    └── NotTheLogs          no key of that log has signed the checkpoint, or one has wrongly
    InternalError
    ├── LogDamaged          the stored log contradicts itself; names the first entry concerned
    ├── KeysDamaged         a file in the folder of people's keys is none that was written there
    └── OtherKeys           the folder of people's keys is not the one that this database was written with
    ServiceUnavailable
    ├── SigningRefused      the head does not extend what was signed before: nothing is signed until people have looked
    ├── KeyRetired          somebody is erased at this moment, whose key was about to be used
    ├── BooksDiffer         the database and the broker remember two trees of one size that we cosigned
    └── NotWitnessed        the policy asks for more cosignatures than could be had
    NotFound
    ├── NotAWitness · UnknownLog   this mesh cosigns no logs, or not that one
    ├── NoSuchHold          a legal hold was to be lifted that was never placed
    ├── NoSuchForwarder     none of this scope has that name
    ├── NoSuchLetter · LetterErased   this scope has no dead letter of that number, or an erasure took what it said
    ├── NoSuchEntry         a proof was asked for an entry or a size that the log does not have
    └── NoSuchTile          the log has no tile or bundle of that path, or not as wide a one yet
    Conflict
    ├── ForwarderExists     one of this scope has that name already
    ├── SecretUnusable      what one hides does not open
    ├── TooManyForwarders   the scope has as many as it may
    ├── TooManyPositions    a principal has saved as many positions as it may
    └── TooManyHolds        the scope has as many legal holds in force as it can

What always holds: no text contains anything of an event; an index and a size say where to look.
"""

from __future__ import annotations

from wardmesh.errors import (
    Conflict,
    InternalError,
    InvalidRequest,
    NotFound,
    RefusedError,
    RequestError,
    ServiceUnavailable,
)
from wardmesh.ids import Scope


class MalformedEnvelope(Exception):
    """A message that cannot be sealed, whatever is tried.

    `reason` is a word for machines. `scope` is whose log shall tell of it, if the subject names a scope at all.
    """

    def __init__(self, reason: str, scope: Scope | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.scope = scope


class LogDamaged(InternalError):
    """Rows of the log are missing, or are not those that were written."""

    title = "The stored log is damaged"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} Run `wardmesh audit verify` with the log's address, and restore what is damaged from a backup."
        )


class KeysDamaged(InternalError):
    """Something in the folder of people's keys is not what was written there."""

    title = "The folder of people's keys is damaged"

    def __init__(self) -> None:
        super().__init__("A file in the folder of people's keys is not what was written there. Restore the folder.")


class OtherKeys(InternalError):
    """Going on would seal with keys that other replicas, and what is sealed already, do not have."""

    title = "These are not the keys of this database"

    def __init__(self) -> None:
        super().__init__(
            "WARDMESH_AUDIT_SUBJECT_KEYS_DIR is not the folder that this database was written with. Mount that one "
            "for every replica; docs/operations.md says what to do if it is lost."
        )


class KeyRetired(ServiceUnavailable):
    """What was sealed by a key must not be stored any more: nobody would count it, and nobody could read it."""


class SigningRefused(ServiceUnavailable):
    """Signing the head would fork the log: two checkpoints, of which neither extends the other."""

    title = "The log's head is not signed"
    advice = (
        "The log is not an extension of what was signed before, as after a restored backup. "
        "Nothing is signed until an operator has compared both."
    )


class NoSuchEntry(NotFound):
    """The log has fewer entries than that."""

    advice = "Ask for an entry and a size that the log has; a checkpoint tells its size."


class NoSuchLetter(NotFound):
    """This scope has no dead letter of that number, or not any more."""

    advice = "List the dead letters: each has its number, and is kept for thirty days."


class LetterErased(NotFound):
    """Somebody was erased since it came, and nobody could tell whether the letter was about that person."""

    title = "An erasure took what the letter says"
    advice = "The log's entry about it stays, with its hash: ask who wrote it for the same again."


class TooManyPositions(Conflict):
    """One more name than a principal may have."""

    advice = "You have saved as many positions as you may. Delete those that nobody goes on from."


class NoSuchTile(NotFound):
    """The log has no tile of that path, or not as wide a one yet."""

    advice = "Ask for what a checkpoint's size requires, by its C2SP path: tile/0/000, tile/entries/x001/067.p/12."


class NoSuchHold(NotFound):
    """No legal hold of this scope has that number."""

    advice = "List the holds: each has its number."


class TooManyHolds(Conflict):
    """The scope has as many legal holds in force as it can."""

    advice = "One hold keeps everything; lift those that are over."


class NotWitnessed(ServiceUnavailable):
    """The policy asks for more cosignatures than the witnesses have given."""

    title = "Too few witnesses have cosigned the log's head"
    advice = (
        "The log's policy asks for a quorum of witnesses; `wardmesh audit witness list` shows who is behind. Try again."
    )


class BooksDiffer(ServiceUnavailable):
    """The database and the broker's bucket remember two trees of one size that this mesh has cosigned."""

    title = "The witness's books contradict each other"
    advice = "Nothing of that log is cosigned until an operator has compared the database and the bucket `checkpoints`."


class NotAWitness(NotFound):
    """No logs are configured that this mesh would cosign."""

    advice = "This mesh is the witness of no log."


class UnknownLog(NotFound):
    """The checkpoint's origin is none of the logs that this mesh witnesses."""

    advice = "This witness does not know that log; its operator has to be told the log's verifier key."


class NotTheLogs(RefusedError):
    """The checkpoint is not signed by a key that the witness trusts for its log."""

    advice = "Sign the checkpoint with the key that this witness was told of."


class MalformedCheckpoint(RequestError):
    """What a witness was asked is no add-checkpoint request."""


class Inconsistent(InvalidRequest):
    """The consistency proof does not lead from what was cosigned to what is to be."""

    title = "The checkpoint does not extend the one that was cosigned"
    advice = "Prove that the log of the old size is the beginning of this one (RFC 6962, section 2.1.2)."


class NoSuchForwarder(NotFound):
    """No forwarder of this scope has that name."""

    advice = "List the forwarders: each has its name."


class ForwarderExists(Conflict):
    """A forwarder of this scope has that name already."""

    advice = "Choose another name, or change that one."


class SecretUnusable(Conflict):
    """What a forwarder hides does not open: the service's key is not the one that it was sealed with."""

    advice = "Give its address and its secret anew."


class TooManyForwarders(Conflict):
    """The scope has as many forwarders as it may."""

    advice = "Remove one that is not needed, or let one endpoint send on to several."

"""What could not be sealed, shown to whom it belongs to. The use cases; `letter_box` finds the letters.

What always holds: a scope sees its own letters alone, whatever number it asks for. Who may search the log sees that
there are letters; who may take the log along sees what they say. A page looks at a bounded number of bytes.

On failure: `NoSuchLetter`; `LetterErased` for one whose words an erasure took.
"""

from __future__ import annotations

from typing import Final, Protocol

from wardmesh.contracts.audit import MAX_PAGE_BYTES
from wardmesh.contracts.audit.letters import (
    DeadLetter,
    DeadLetterPart,
    DeadLetters,
    ListDeadLetters,
    ReadDeadLetter,
)
from wardmesh.ids import Scope
from wardmesh.server.context import Call
from wardmesh_audit.errors import LetterErased, NoSuchLetter
from wardmesh_audit.letters import Letter, Letters

PAGE_BYTES: Final = 4 * 1024 * 1024
"""Of letters that are looked at for one page: the broker gives out each with all that it says."""


class LetterBox(Protocol):
    """Where letters are kept, each under a number."""

    async def next(self, scope: Scope, after: int) -> Letter | None:
        """Return the scope's first letter whose number is larger."""

    async def get(self, scope: Scope, number: int) -> Letter | None:
        """Return the letter of that number. MUST NOT return another scope's."""


class DeadLetterService:
    """The use cases of dead letters."""

    def __init__(self, box: LetterBox, letters: Letters) -> None:
        self._box = box
        self._letters = letters

    async def list(self, call: Call, request: ListDeadLetters) -> DeadLetters:
        """Return a page of the scope's letters, oldest first."""
        found: list[DeadLetter] = []
        after, looked_at = request.after, 0
        while len(found) < request.limit and looked_at < PAGE_BYTES:
            letter = await self._box.next(call.caller.scope, after)
            if letter is None:
                return DeadLetters(letters=tuple(found))
            after = letter.number
            looked_at += len(letter.sealed)
            found.append(await self._shown(letter))
        return DeadLetters(letters=tuple(found), next_after=after)

    async def read(self, call: Call, request: ReadDeadLetter) -> DeadLetterPart:
        """Return what a letter says, as it came."""
        letter = await self._box.get(call.caller.scope, request.number)
        if letter is None:
            raise NoSuchLetter
        said = await self._letters.open(letter)
        if said is None:
            raise LetterErased
        part = said[request.offset : request.offset + MAX_PAGE_BYTES]
        return DeadLetterPart(content=part, kept=len(said))

    async def _shown(self, letter: Letter) -> DeadLetter:
        return DeadLetter(
            number=letter.number,
            entry=letter.entry,
            reason=letter.reason,
            source=letter.source,
            received_at=letter.received_at,
            size=letter.size,
            kept=letter.kept,
            is_erased=await self._letters.open(letter) is None,
        )

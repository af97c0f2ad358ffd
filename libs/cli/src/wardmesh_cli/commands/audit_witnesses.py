"""`wardmesh audit witness`: who cosigns the log; and the options by which a verification asks for cosignatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.tlog_policy import MAX_POLICY_BYTES, Policy
from wardmesh_cli.bounded_files import read_bounded
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import UsageFailed
from wardmesh_cli.output import DOUBTFUL, GOOD, Styled

witness = typer.Typer(help="Who cosigns the log's checkpoints, and whose this mesh cosigns.", no_args_is_help=True)

WitnessOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--witness", metavar="VKEY", help="A witness's verifier key, which must have cosigned; repeatable."),
]
QuorumOption: TypeAlias = Annotated[
    int | None, typer.Option("--quorum", min=1, help="So many of the witnesses are enough; without it, all.")
]
PolicyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--policy", help="A C2SP tlog-policy instead: witnesses and a quorum.", exists=True, dir_okay=False),
]


def register(group: typer.Typer) -> None:
    mesh_command(witness, "list", where=Where.EITHER)(list_witnesses)
    mesh_command(witness, "keys", where=Where.EITHER)(keys)
    group.add_typer(witness, name="witness")


async def list_witnesses(run: Run) -> None:
    """List the witnesses of the log, and how far each has followed it."""
    found = await run.mesh.audit.witnesses()
    if run.out.as_json:
        run.out.document(found)
        return
    furthest = max((each.size or 0 for each in found.witnesses), default=0)
    run.out.table(
        ("witness", "cosigned", "at", "verifier key"),
        [
            (
                each.name,
                Styled("never", DOUBTFUL)
                if each.size is None
                else Styled(str(each.size), GOOD if each.size == furthest else DOUBTFUL),
                each.cosigned_at,
                each.verifier_key,
            )
            for each in found.witnesses
        ],
    )
    run.out.note(f"quorum: {found.quorum}")


async def keys(run: Run) -> None:
    """Show the verifier keys of this mesh as a witness of other logs: what their operators put into a policy."""
    found = await run.mesh.audit.witnesses()
    if run.out.as_json:
        run.out.document({"keys": list(found.own_keys)})
        return
    for key in found.own_keys:
        run.out.line(key)
    if not found.own_keys:
        run.out.note("this mesh witnesses no logs; docs/operations.md says how to run a witness")


@dataclass(frozen=True)
class WitnessOptions:
    """Options of a command that verifies: who must have cosigned."""

    witness: WitnessOption = None
    quorum: QuorumOption = None
    policy: PolicyOption = None

    def asked(self) -> Policy | None:
        """Return whose cosignatures are asked for, or None if nobody's are."""
        if self.policy is not None:
            if self.witness or self.quorum is not None:
                raise UsageFailed(
                    "A policy has its own witnesses and quorum.", "Give --policy, or --witness and --quorum."
                )
            try:
                return Policy.parse(read_bounded(self.policy, MAX_POLICY_BYTES))
            except CryptoError as error:
                raise UsageFailed(f"{self.policy} is no policy: {error}.", "See c2sp.org/tlog-policy.") from error
        if not self.witness:
            if self.quorum is not None:
                raise UsageFailed("A quorum is of witnesses.", "Name them: --witness VKEY.")
            return None
        try:
            return Policy.of_keys(self.witness, self.quorum)
        except CryptoError as error:
            raise UsageFailed(
                f"These are no witnesses to ask for: {error}.", "Witnesses publish their verifier keys."
            ) from error

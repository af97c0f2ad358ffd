"""Shows who cosigns a log, and how far each has followed it; and the keys of this mesh as a witness."""

from __future__ import annotations

from wardmesh.contracts.audit import Witnesses, WitnessState
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.cosignature import moment
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.server.context import Call
from wardmesh_audit.witness_ports import CosignatureStore
from wardmesh_audit.witness_signing import WitnessSigner


class WitnessList:
    """The use case of looking at witnesses."""

    def __init__(self, policy: Policy, kept: CosignatureStore, signer: WitnessSigner | None) -> None:
        self._policy = policy
        self._kept = kept
        self._signer = signer

    async def show(self, call: Call, _request: Empty) -> Witnesses:
        """Return the witnesses of the caller's log."""
        witnesses = self._policy.witnesses.values()
        keys = [each.key.identity for each in witnesses]
        reached = await self._kept.reached(call.caller.scope, keys)
        states = []
        for witness, key in zip(witnesses, keys, strict=True):
            last = reached.get(key)
            states.append(
                WitnessState(
                    name=witness.name,
                    verifier_key=str(witness.key),
                    size=None if last is None else last.size,
                    cosigned_at=None if last is None else moment(last.time),
                )
            )
        return Witnesses(
            witnesses=tuple(states),
            quorum=self._policy.quorum,
            own_keys=() if self._signer is None else self._signer.verifier_keys,
        )

"""Contracts of the audit service, the append-only log, and the form of what goes into it."""

from __future__ import annotations

from wardmesh.contracts.audit import entries, proofs, receipts
from wardmesh.contracts.audit.entries import (
    EMIT,
    MAX_BODY_BYTES,
    MAX_EMIT,
    QUERY,
    TAIL,
    Emit,
    Emitted,
    Entries,
    Entry,
    Filter,
    Query,
    SealedEntries,
    Tail,
)
from wardmesh.contracts.audit.events import (
    MAX_DETAILS_BYTES,
    MAX_ENVELOPE_EVENTS,
    MAX_TARGETS,
    Action,
    AuditEnvelope,
    AuditEvent,
    Details,
    NewAuditEvent,
    Outcome,
    Reason,
    Target,
)
from wardmesh.contracts.audit.proofs import (
    CHECKPOINT,
    LEAVES,
    PROVE,
    Checkpoint,
    InclusionProof,
    Leaves,
    Prove,
    ReadLeaves,
)
from wardmesh.contracts.audit.receipts import (
    CONSISTENCY,
    RECEIPT,
    AskReceipt,
    ConsistencyProof,
    ProveGrowth,
    Receipt,
)
from wardmesh.contracts.audit.rules import (
    MAX_LEAVES,
    MAX_PAGE_BYTES,
    READ,
)
from wardmesh.contracts.operation import AnyContract

__all__ = [
    "CHECKPOINT",
    "CONSISTENCY",
    "CONTRACTS",
    "EMIT",
    "LEAVES",
    "MAX_BODY_BYTES",
    "MAX_DETAILS_BYTES",
    "MAX_EMIT",
    "MAX_ENVELOPE_EVENTS",
    "MAX_LEAVES",
    "MAX_PAGE_BYTES",
    "MAX_TARGETS",
    "PROVE",
    "QUERY",
    "READ",
    "RECEIPT",
    "TAIL",
    "Action",
    "AskReceipt",
    "AuditEnvelope",
    "AuditEvent",
    "Checkpoint",
    "ConsistencyProof",
    "Details",
    "Emit",
    "Emitted",
    "Entries",
    "Entry",
    "Filter",
    "InclusionProof",
    "Leaves",
    "NewAuditEvent",
    "Outcome",
    "Prove",
    "ProveGrowth",
    "Query",
    "ReadLeaves",
    "Reason",
    "Receipt",
    "SealedEntries",
    "Tail",
    "Target",
]

CONTRACTS: tuple[AnyContract, ...] = (*entries.CONTRACTS, *proofs.CONTRACTS, *receipts.CONTRACTS)

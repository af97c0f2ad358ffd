"""Binds the log's contracts to its use cases. No rules here."""

from __future__ import annotations

from wardmesh.contracts import audit as contracts
from wardmesh.server.operations import Operations
from wardmesh_audit.dead_letters import DeadLetterService
from wardmesh_audit.erasing import ErasingService
from wardmesh_audit.forwarders import ForwarderService
from wardmesh_audit.proving import Prover
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.retention import RetentionService
from wardmesh_audit.service import AuditService
from wardmesh_audit.tiles import TileReader
from wardmesh_audit.witnesses import WitnessList
from wardmesh_audit.witnessing import WitnessService


def bind(
    operations: Operations,
    service: AuditService,
    reading: ReadingService,
    prover: Prover,
    tiles: TileReader,
    retention: RetentionService,
    erasing: ErasingService,
) -> None:
    operations.bind(contracts.EMIT, service.emit)
    operations.bind(contracts.QUERY, reading.query)
    operations.bind(contracts.TAIL, reading.tail)
    operations.bind(contracts.SELECT, reading.select)
    operations.bind(contracts.NODES, reading.nodes)
    operations.bind(contracts.SAVE_POSITION, reading.save_position)
    operations.bind(contracts.LIST_POSITIONS, reading.list_positions)
    operations.bind(contracts.DELETE_POSITION, reading.delete_position)
    operations.bind(contracts.CHECKPOINT, prover.checkpoint)
    operations.bind(contracts.LEAVES, service.leaves)
    operations.bind(contracts.PROVE, prover.prove)
    operations.bind(contracts.RECEIPT, prover.receipt)
    operations.bind(contracts.CONSISTENCY, prover.consistency)
    operations.bind(contracts.TILE, tiles.tile)
    operations.bind(contracts.BUNDLE, tiles.bundle)
    operations.bind(contracts.KEPT, tiles.kept)
    operations.bind(contracts.RETENTION, retention.show)
    operations.bind(contracts.SET_RETENTION, retention.set)
    operations.bind(contracts.PLACE_HOLD, retention.place_hold)
    operations.bind(contracts.LIFT_HOLD, retention.lift_hold)
    operations.bind(contracts.HOLDS, retention.holds)
    operations.bind(contracts.PRUNINGS, retention.prunings)
    operations.bind(contracts.MINE, reading.mine)
    operations.bind(contracts.ERASE, erasing.erase)
    operations.bind(contracts.ERASURES, erasing.erasures)


def bind_letters(operations: Operations, letters: DeadLetterService) -> None:
    operations.bind(contracts.letters.DEAD_LETTERS, letters.list)
    operations.bind(contracts.letters.DEAD_LETTER, letters.read)


def bind_witness(operations: Operations, witness: WitnessService, witnesses: WitnessList) -> None:
    operations.bind(contracts.ADD_CHECKPOINT, witness.add_checkpoint)
    operations.bind(contracts.WITNESSES, witnesses.show)


def bind_forwarders(operations: Operations, forwarders: ForwarderService) -> None:
    operations.bind(contracts.ADD_FORWARDER, forwarders.add)
    operations.bind(contracts.LIST_FORWARDERS, forwarders.list)
    operations.bind(contracts.EDIT_FORWARDER, forwarders.edit)
    operations.bind(contracts.REMOVE_FORWARDER, forwarders.remove)
    operations.bind(contracts.PAUSE_FORWARDER, forwarders.pause)
    operations.bind(contracts.RESUME_FORWARDER, forwarders.resume)
    operations.bind(contracts.PROBE_FORWARDER, forwarders.probe)

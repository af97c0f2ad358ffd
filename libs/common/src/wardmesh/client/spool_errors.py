"""What goes wrong with a spool; it never crosses the wire.

RequestError
└── SpoolUnusable       the folder is in use, readable by others, another principal's, or on a disk that fails
UnavailableError
└── SpoolFull           at its bound, or the disk is full; the event was not taken
"""

from __future__ import annotations

from wardmesh.errors import RequestError, UnavailableError


class SpoolUnusable(RequestError):
    """The folder cannot be used."""

    code = "spool_unusable"
    title = "The spool cannot be used"
    advice = "Give each process a folder of its own, mode 700, on a disk that works."


class SpoolFull(UnavailableError):
    """There is no room; the event was not taken."""

    code = "spool_full"
    title = "The spool is full"
    advice = "The mesh has been away for long: `wardmesh doctor` shows the spool. Wait until it drains."

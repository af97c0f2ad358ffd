"""Pages of stored entries: what several stores select in the same way.

What always holds: a page is in the order of the log, has at most `MAX_PAGE_BYTES` of leaves and openings, and at least
one entry if there is any.
"""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from wardmesh.contracts.audit import MAX_PAGE_BYTES
from wardmesh_audit.domain import Stored


def page_of(found: str, order: str = "asc") -> str:
    """Return the statement for a page of `found`, a query of index, leaf and openings whose values are parameters."""
    return f"""
        select index, leaf, openings from (
            select index, leaf, openings,
                   sum(octet_length(leaf) + coalesce(octet_length(openings), 0)) over (order by index {order}) as bytes,
                   row_number() over (order by index {order}) as place
              from ({found}) as found) as counted
         where place = 1 or bytes <= {MAX_PAGE_BYTES} order by index {order}
    """  # noqa: S608 - constants


def stored(rows: Iterable[asyncpg.Record]) -> list[Stored]:
    """Return the entries of a page."""
    return [Stored(row["index"], row["leaf"], row["openings"]) for row in rows]

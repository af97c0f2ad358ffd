"""Names of the headers that travel with a request.

Short, because nats-py looks at every character of every header's name, for every message.
"""

from __future__ import annotations

from typing import Final

AUTHORIZATION: Final = "Authorization"
"""`Bearer` and the caller's access token."""
REQUEST_ID: Final = "Request-Id"
"""The caller's id for this call, the same through all its retries."""
DEADLINE_MS: Final = "Deadline-Ms"
"""How many milliseconds the caller still waits, when it sends."""
TRACE_PARENT: Final = "traceparent"
"""W3C Trace Context."""
CAME_FROM: Final = "Came-From"
"""The gateway's signed statement about an HTTP client (`wardmesh.server.origin`)."""

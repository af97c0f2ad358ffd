"""Field types that several contracts share."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, TypeAlias

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints

MAX_PAGE: Final = 500
"""Rows of a page: enough to be worth a round trip, few enough to fit one message."""
MAX_BATCH: Final = 256
"""Messages of one send or one fetch."""
MAX_WAIT_SECONDS: Final = 25.0
"""A long poll ends before a call's longest deadline does."""
POLL_SECONDS: Final = 5.0
"""How long our own readers let a poll wait. A process that is killed cannot say so, and whoever waits for it learns of
it from the deadline alone: so a reader stands still no longer than that, and an idle one costs a call each time."""
POLL_DEADLINE: Final = timedelta(seconds=POLL_SECONDS + 3)

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128, strip_whitespace=True)]
"""What people call something. Shown, never parsed."""
Token: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A word that becomes one token of a subject."""
DottedType: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}(\.[a-z0-9][a-z0-9_-]{0,63}){0,7}$")
]
"""The type of an event or a message: one to eight words joined by dots."""
SecretText: TypeAlias = Annotated[str, Field(min_length=1, max_length=4096, repr=False)]
"""A password or a key: absent from `repr`, never a target of an audit rule."""
HolderPublicKey: TypeAlias = Annotated[bytes, Field(min_length=32, max_length=32)]
"""The caller's X25519 public key, to which answers that carry secrets are sealed."""
Limit: TypeAlias = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Batch: TypeAlias = Annotated[int, Field(ge=0, le=MAX_BATCH)]
"""How many a fetch may bring; 0 acknowledges only, so that a reader who stops need not take more."""
WaitSeconds: TypeAlias = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)]
Json: TypeAlias = JsonValue
Time: TypeAlias = AwareDatetime
AckToken: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\d{1,20}(\.\d{1,20}){4}$")]
"""Names one delivery to one group. It holds nothing but numbers; whose consumer they count in, the service knows."""

"""Where a request came from, when the gateway brought it: a short statement that the auth service signs.

A service sees the gateway's connection, and the gateway speaks as its callers do. So the HTTP client's address and user
agent come in a header that anybody could write; they are believed only with auth's signature, which every service can
check with the keys that it has anyway.

What always holds: a statement is good for one request of one principal, for `LIFETIME`; it is no access token, and no
access token is one (type and audience differ). One that is not good says nothing: the request goes on without it, and
its entry says that there was one (`origin_refused`). Without the header nothing is done at all.

Of a client on NATS no address is known here: the broker knows it, and tells only the callout, when the client connects
(`connection.open` has it). An access token is no word for it: it may be used from elsewhere than where it was issued.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from wardmesh.ids import Principal, PrincipalField, RequestId
from wardmesh.server.tokens import ALGORITHM

TYPE: Final = "wardmesh-origin+jwt"
AUDIENCE: Final = "wardmesh-origin"
LIFETIME: Final = timedelta(seconds=60)
"""Longer than any request takes, with its time in queues and clocks that differ by seconds."""
MAX_CHARACTERS: Final = 2048
MAX_ADDRESS_CHARACTERS: Final = 64
MAX_USER_AGENT_CHARACTERS: Final = 256


class Origin(BaseModel):
    """What is known of who sent a request by HTTP."""

    model_config = ConfigDict(frozen=True)

    address: Annotated[str, StringConstraints(max_length=MAX_ADDRESS_CHARACTERS)] | None = None
    user_agent: Annotated[str, StringConstraints(max_length=MAX_USER_AGENT_CHARACTERS)] | None = None


class Statement(BaseModel):
    """The claims."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iss: str
    aud: Literal["wardmesh-origin"] = "wardmesh-origin"
    sub: PrincipalField
    request: RequestId
    exp: int
    origin: Origin


def verify(
    text: str,
    keys: Mapping[str, OKPKey],
    *,
    issuer: str,
    principal: Principal,
    request_id: RequestId,
    now: float,
) -> Origin | None:
    """Return what a statement about this very request says, or None if it is not one of ours."""
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        encoded = text.encode("ascii")
        header = jws.extract_compact(encoded).headers()
        key = keys.get(str(header.get("kid")))
        if key is None or header.get("alg") != ALGORITHM or header.get("typ") != TYPE:
            return None
        payload = jws.deserialize_compact(encoded, key, algorithms=[ALGORITHM]).payload
        said = Statement.model_validate_json(payload)
    except (JoseError, ValidationError, ValueError):
        return None
    if (said.iss, said.sub, said.request) != (issuer, principal, request_id) or said.exp <= now:
        return None
    return said.origin

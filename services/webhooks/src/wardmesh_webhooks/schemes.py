"""The schemes that are known, each as data. Adding one that signs with HMAC-SHA256 takes an entry here and no code.

Sources: https://docs.stripe.com/webhooks#verify-manually · https://docs.github.com/en/webhooks/using-webhooks/
validating-webhook-deliveries · https://github.com/standard-webhooks/standard-webhooks (spec, v1 symmetric).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from wardmesh.contracts.webhooks import Scheme
from wardmesh_webhooks.scheme import Encoding, Identity, Part, SignatureScheme

TOLERANCE: Final = timedelta(minutes=5)
"""What Stripe's and the Standard Webhooks libraries allow."""

SCHEMES: Final[Mapping[Scheme, SignatureScheme]] = MappingProxyType(
    {
        # Stripe-Signature: t=1492774577,v1=5257a8…,v1=…,v0=…
        Scheme.STRIPE: SignatureScheme(
            signature_header="stripe-signature",
            item_separator=",",
            label_separator="=",
            label="v1",
            encoding=Encoding.HEX,
            timestamp_label="t",
            signed=(Part.TIMESTAMP, Part.BODY),
            tolerance=TOLERANCE,
            identity=Identity.BODY_ID,
            type_field="type",
        ),
        # X-Hub-Signature-256: sha256=757107… The delivery's id and the event's name are headers that nobody signs, so
        # a body is an event once, whatever they say; and it never grows old, so it is remembered for good.
        Scheme.GITHUB: SignatureScheme(
            signature_header="x-hub-signature-256",
            item_separator=None,
            label_separator="=",
            label="sha256",
            encoding=Encoding.HEX,
            signed=(Part.BODY,),
            identity=Identity.BODY,
            type_header="x-github-event",
            type_field="action",
        ),
        # webhook-id: msg_2KW…   webhook-timestamp: 1674087231   webhook-signature: v1,K5oZf… v1,… v1a,…
        Scheme.STANDARD: SignatureScheme(
            signature_header="webhook-signature",
            item_separator=" ",
            label_separator=",",
            label="v1",
            encoding=Encoding.BASE64,
            message_id_header="webhook-id",
            timestamp_header="webhook-timestamp",
            signed=(Part.MESSAGE_ID, Part.TIMESTAMP, Part.BODY),
            secret_prefix="whsec_",  # noqa: S106 - a prefix
            secret_encoding=Encoding.BASE64,
            tolerance=TOLERANCE,
            identity=Identity.MESSAGE_ID,
            type_field="type",
        ),
    }
)

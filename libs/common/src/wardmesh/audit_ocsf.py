"""Entries in two standard forms of other people's tools: OCSF events, and CloudEvents.

    to_ocsf(entry)          a dict after OCSF 1.8.0, which a SIEM knows how to read
    to_cloudevent(entry)    a dict after CloudEvents 1.0, in its JSON format

What always holds: both are pure, and take every entry that the log can hold: details are somebody else's words, so
what does not fit a field of the standard's is not put there. Nothing is lost: what OCSF has no field for is in
`unmapped`, and the CloudEvent's data is the event itself. Neither is what the log proves; that are the leaf's bytes.

Source: https://schema.ocsf.io/1.8.0, and CloudEvents 1.0.2 with its extensions `sequence` and `recordedtime`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from wardmesh.contracts.audit import AuditEvent, Entry, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, Principal, ServiceId, UserId

OCSF_VERSION: Final = "1.8.0"
CLOUDEVENTS_VERSION: Final = "1.0"
PRODUCT: Final = "wardmesh"
EVENT_SCHEMA: Final = "urn:wardmesh:audit-event:1"

MAX_DURATION_SECONDS: Final = 10**12
"""In milliseconds it still fits OCSF's `long_t`; what took longer is in `unmapped` only."""

_IAM: Final = 3
_APPLICATION: Final = 6
_OTHER: Final = 99

_READS: Final = frozenset({"get", "read", "list", "query", "tail", "fetch", "export", "prove", "checkpoint", "key"})
_MAKES: Final = frozenset({"create", "put", "publish", "send", "emit", "grant", "propose", "receive", "deliver"})
_UPDATES: Final = frozenset({"update", "set", "set_level", "accept", "rotate", "rewrap", "change"})
_REMOVES: Final = frozenset({"delete", "revoke", "revoke_grant", "destroy", "remove", "erase", "shred"})

_CRUD: Final = ((_MAKES, 1), (_READS, 2), (_UPDATES, 3), (_REMOVES, 4))
"""API Activity and Entity Management number what is done in the same way."""
_DATASTORE: Final = ((_READS - {"list"}, 1), (_UPDATES, 2), (_MAKES, 5), (_REMOVES, 7), (frozenset({"list"}), 8))
_LOGON: Final = frozenset({"create", "issue", "open"})
_TICKETS: Final = ((_LOGON, 1), (frozenset({"delete", "revoke"}), 2), (frozenset({"refresh"}), 5))
_PRIVILEGES: Final = ((frozenset({"assign", "grant", "use", "access", "begin"}), 1),)

_Fields = dict[str, Any]


class _Class(NamedTuple):
    """An OCSF class: its numbers, what it calls verbs, and the fields of its own."""

    category: int
    uid: int
    activities: tuple[tuple[frozenset[str], int], ...]
    fields: Callable[[Entry], _Fields]


def to_ocsf(entry: Entry) -> _Fields:
    """Return the entry as an OCSF event of the class that its category has (`CLASSES`)."""
    event = entry.event
    kind = CLASSES[event.category]
    activity = _activity(event.action, kind.activities)
    refused = event.outcome is Outcome.REFUSED
    fields = {
        "category_uid": kind.category,
        "class_uid": kind.uid,
        "activity_id": activity,
        "type_uid": kind.uid * 100 + activity,
        "time": _milliseconds(event.occurred_at),
        "severity_id": 1 if event.outcome is Outcome.SUCCESS else 2,
        "status_id": 1 if event.outcome is Outcome.SUCCESS else 2,
        "message": f"{event.action}: {event.outcome}",
        "metadata": _metadata(entry),
        "actor": {"user": _user(event.actor)},
        "unmapped": _unmapped(entry),
        **kind.fields(entry),
    }
    if activity == _OTHER:
        fields["activity_name"] = _verb(event.action)
    if refused:
        fields |= {"action_id": 2, "disposition_id": 2}
        fields["metadata"]["profiles"].append("security_control")
    if event.reason is not None:
        fields["status_code"] = event.reason
    if event.user_agent is not None:
        fields["http_request"] = {"user_agent": event.user_agent}
    if event.source_address is not None:
        fields.setdefault("src_endpoint", _endpoint(event))
    if (duration := _duration(event)) is not None:
        fields["duration"] = duration
    return fields


def to_cloudevent(entry: Entry) -> _Fields:
    """Return the entry as a CloudEvent in the JSON format; its id is the event's, `sequence` its place in the log."""
    event = entry.event
    fields = {
        "specversion": CLOUDEVENTS_VERSION,
        "id": str(event.id),
        "source": f"/{entry.scope}/{entry.source}",
        "type": f"{PRODUCT}.audit.{event.category}.{event.action}",
        "time": _rfc3339(event.occurred_at),
        "recordedtime": _rfc3339(entry.received_at),
        "sequence": str(entry.index),
        "datacontenttype": "application/json",
        "dataschema": EVENT_SCHEMA,
        "data": event.model_dump(mode="json", exclude_defaults=True),
    }
    if event.targets:
        fields["subject"] = event.targets[0]
    return fields


def _authentication(entry: Entry) -> _Fields:
    fields: _Fields = {"user": _user(entry.event.actor), "service": {"name": entry.source}}
    if isinstance(method := entry.event.details.get("method"), str):
        fields |= {"auth_protocol_id": _OTHER, "auth_protocol": method}
    return fields


def _entity(entry: Entry) -> _Fields:
    event = entry.event
    resource = event.action.rpartition(".")[0]
    return {"entity": {"type": resource, "name": event.targets[0] if event.targets else resource}}


def _privileges(entry: Entry) -> _Fields:
    event = entry.event
    return {"user": _user(event.actor), "privileges": list(event.targets) or [event.action]}


def _datastore(entry: Entry) -> _Fields:
    bucket = {"name": f"{entry.scope}/{entry.source}", "type_id": _OTHER, "type": entry.source}
    return {"databucket": bucket, "src_endpoint": _endpoint(entry.event)}


def _call(entry: Entry) -> _Fields:
    event = entry.event
    fields: _Fields = {"api": _api(event), "src_endpoint": _endpoint(event)}
    if event.targets:
        fields["resources"] = [{"uid": target} for target in event.targets]
    return fields


def _model(entry: Entry) -> _Fields:
    event = entry.event
    name = event.targets[0] if event.targets else "unknown"
    provider, slash, _ = name.partition("/")
    context: _Fields = {"service": {"name": _text(event, "source") or entry.source}}
    tokens = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    context |= {field: count for field, detail in tokens.items() if (count := _count(event, detail)) is not None}
    return _call(entry) | {
        "ai_model": {"name": name, "ai_provider": provider if slash and provider else "unknown"},
        "message_context": context,
    }


CLASSES: Final[Mapping[Category, _Class]] = {
    Category.AUTHENTICATION: _Class(_IAM, 3002, _TICKETS, _authentication),
    Category.AUTHORIZATION: _Class(_APPLICATION, 6003, _CRUD, _call),
    Category.ADMINISTRATION: _Class(_IAM, 3004, _CRUD, _entity),
    Category.SECRET_ACCESS: _Class(_APPLICATION, 6005, _DATASTORE, _datastore),
    Category.BRIDGE: _Class(_APPLICATION, 6003, _CRUD, _call),
    Category.WEBHOOK: _Class(_APPLICATION, 6003, _CRUD, _call),
    Category.MODEL_USAGE: _Class(_APPLICATION, 6003, _CRUD, _model),
    Category.ACTION_EXECUTION: _Class(_APPLICATION, 6003, _CRUD, _call),
    Category.TOOL_CALL: _Class(_APPLICATION, 6003, _CRUD, _call),
    Category.DATA_SYNC: _Class(_APPLICATION, 6003, _CRUD, _call),
    Category.PRIVILEGED_ACCESS: _Class(_IAM, 3003, _PRIVILEGES, _privileges),
    Category.CONFIGURATION: _Class(_IAM, 3004, _CRUD, _entity),
}
"""Authentication 3002, Authorize Session 3003, Entity Management 3004, API Activity 6003, Datastore Activity 6005."""


def _metadata(entry: Entry) -> _Fields:
    event = entry.event
    metadata: _Fields = {
        "version": OCSF_VERSION,
        "product": {"name": PRODUCT, "vendor_name": PRODUCT},
        "profiles": ["ai_operation"] if event.category is Category.MODEL_USAGE else [],
        "uid": str(event.id),
        "event_code": event.action,
        "sequence": entry.index,
        "tenant_uid": str(entry.scope),
        "log_name": str(entry.scope),
        "log_provider": entry.source,
        "logged_time": _milliseconds(entry.received_at),
    }
    if event.request_id is not None:
        metadata["correlation_uid"] = str(event.request_id)
    return metadata


def _unmapped(entry: Entry) -> _Fields:
    """Return what OCSF has no field for, or none in every class."""
    event = entry.event
    rest: _Fields = {"category": event.category.value, "outcome": event.outcome.value}
    if event.targets:
        rest["targets"] = list(event.targets)
    if event.acting_for is not None:
        rest["acting_for"] = str(event.acting_for)
    if event.trace_id is not None:
        rest["trace_id"] = event.trace_id
    if entry.withheld:
        rest["withheld"] = list(entry.withheld)
    if event.details:
        rest["details"] = event.model_dump(mode="json", include={"details"})["details"]
    return rest


def _api(event: AuditEvent) -> _Fields:
    api: _Fields = {"operation": event.action}
    if event.request_id is not None:
        api["request"] = {"uid": str(event.request_id)}
    return api


def _user(principal: Principal) -> _Fields:
    user: _Fields = {"uid": str(principal)}
    if principal.is_nil:
        return user | {"type_id": 0}
    match principal:
        case UserId():
            return user | {"type_id": 1}
        case ServiceId():
            return user | {"type_id": 4}
        case AgentId():
            return user | {"type_id": _OTHER, "type": "Agent"}


def _endpoint(event: AuditEvent) -> _Fields:
    """Return where it came from; of what came over NATS the principal is known and no address."""
    if event.source_address is None:
        return {"uid": str(event.actor)}
    try:
        return {"ip": str(ipaddress.ip_address(event.source_address))}
    except ValueError:
        return {"name": event.source_address}


def _duration(event: AuditEvent) -> int | None:
    seconds = event.details.get("duration_seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return round(seconds * 1000) if 0 <= seconds <= MAX_DURATION_SECONDS else None


def _count(event: AuditEvent, name: str) -> int | None:
    value = event.details.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(event: AuditEvent, name: str) -> str | None:
    value = event.details.get(name)
    return value if isinstance(value, str) and value else None


def _verb(action: str) -> str:
    return action.rpartition(".")[2]


def _activity(action: str, activities: tuple[tuple[frozenset[str], int], ...]) -> int:
    verb = _verb(action)
    return next((number for verbs, number in activities if verb in verbs), _OTHER)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")

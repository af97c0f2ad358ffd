"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer

from wardmesh.contracts.operation import Category
from wardmesh.ids import AgreementId, EventId, KeyId, OrgId, Principal, RequestId, WorkspaceId, parse_principal

T = TypeVar("T")


def reading(parse: Callable[[object], T]) -> Callable[[str], T]:
    """Return `parse` as typer wants it: what is wrong is a usage error that says what was expected."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return read


WORKSPACE = reading(WorkspaceId.parse)

OtherWorkspace: TypeAlias = Annotated[
    WorkspaceId, typer.Argument(parser=WORKSPACE, metavar="WORKSPACE", help="The other workspace, ws_…")
]
OrganizationOption: TypeAlias = Annotated[
    OrgId | None, typer.Option("--organization", parser=reading(OrgId.parse), metavar="ORG", help="org_…")
]
AgreementArgument: TypeAlias = Annotated[
    AgreementId, typer.Argument(parser=reading(AgreementId.parse), metavar="AGREEMENT", help="agr_…")
]
EventArgument: TypeAlias = Annotated[
    EventId, typer.Argument(parser=reading(EventId.parse), metavar="EVENT", help="evt_…")
]
KeyArgument: TypeAlias = Annotated[KeyId, typer.Argument(parser=reading(KeyId.parse), metavar="KEY", help="key_…")]
PrincipalArgument: TypeAlias = Annotated[
    Principal,
    typer.Argument(parser=reading(parse_principal), metavar="PRINCIPAL", help="usr_…, agt_… or svc_…"),
]
PrincipalOption: TypeAlias = Annotated[
    Principal | None,
    typer.Option("--principal", parser=reading(parse_principal), metavar="PRINCIPAL", help="usr_…, agt_… or svc_…"),
]
ActorOption: TypeAlias = Annotated[
    Principal | None,
    typer.Option("--actor", parser=reading(parse_principal), metavar="PRINCIPAL", help="Only what this one did."),
]
RequestOption: TypeAlias = Annotated[
    RequestId | None,
    typer.Option("--request", parser=reading(RequestId.parse), metavar="REQUEST", help="Only of this call, req_…"),
]
CategoryOption: TypeAlias = Annotated[Category | None, typer.Option("--category", help="Only of this category.")]
LevelOption: TypeAlias = Annotated[
    str, typer.Option("--level", help="restricted, viewer, member, operator, admin or owner.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON document; one a line for streams.")]
DataOption: TypeAlias = Annotated[
    Path | None, typer.Option("--data", help="A mesh's data folder, else the nearest .wardmesh.", file_okay=False)
]
LimitOption: TypeAlias = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at the most.")]

"""The `wardmesh` command, put together."""

from __future__ import annotations

from functools import cache

import typer

from wardmesh_cli.commands import (
    audit,
    audit_forward,
    audit_letters,
    audit_people,
    audit_proofs,
    audit_retention,
    audit_verify,
    audit_witnesses,
    bridge,
    demo,
    doctor,
    event,
    init,
    key,
    people,
    secret,
    session,
    status,
    up,
    webhook,
    workspace,
)


@cache
def build() -> typer.Typer:
    """Return the command with all its groups: one, because the modules' groups are, and would be filled twice."""
    app = typer.Typer(
        name="wardmesh",
        help="The security control plane for platforms whose workspaces run AI agents.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    up.register(app)
    demo.register(app)
    status.register(app)
    doctor.register(app)
    session.register(app)
    init.register(app)
    app.add_typer(secret.app, name="secret")
    app.add_typer(key.app, name="key")
    app.add_typer(people.agent, name="agent")
    app.add_typer(people.user, name="user")
    app.add_typer(people.service_account, name="service-account")
    app.add_typer(people.principal, name="principal")
    app.add_typer(people.level, name="level")
    app.add_typer(workspace.app, name="workspace")
    app.add_typer(bridge.app, name="bridge")
    app.add_typer(webhook.app, name="webhook")
    app.add_typer(event.app, name="event")
    audit_proofs.register(audit.app)
    audit_verify.register(audit.app)
    audit_retention.register(audit.app)
    audit_people.register(audit.app)
    audit_letters.register(audit.app)
    audit_witnesses.register(audit.app)
    audit_forward.register(audit.app)
    app.add_typer(audit.app, name="audit")
    return app

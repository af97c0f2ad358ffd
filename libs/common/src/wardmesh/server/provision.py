"""Declares the streams and buckets of a mesh: what migrations are to the database, this is to the broker.

Used by `wardmesh up`, by the test fixtures, and as a one-shot container (`python -m wardmesh.server.provision`). It
connects as the user `provisioner`, the only one of the account that the streams are in; services may neither make nor
change one, and wait until theirs are there (`Messaging.expect_stream`).

What always holds: it may run any number of times and at once with others. A stream that is there and is not as declared
is left as it is, and named with the fields that differ; only when told to (`update`) does it change one, as far as the
broker allows. Nothing is ever deleted.

On failure: `StreamsDiffer`, after everything else was declared; `BrokerUnreachable` if the broker, or a cluster's
leader, did not answer for `PATIENCE_SECONDS`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from wardmesh.server.broker import PROVISIONER, inbox_prefix
from wardmesh.server.messaging import tls_options
from wardmesh.server.settings import read_seed
from wardmesh.server.streams import AUDIT_MAX_BYTES, EVENTS_MAX_BYTES, MIB, Choices, declared, drift

PATIENCE_SECONDS: Final = 60.0
"""A cluster that has just started elects a JetStream leader within some seconds."""
RETRY_SECONDS: Final = 0.2
CALL_SECONDS: Final = 10.0
"""Making a stream of three replicas waits until they agree."""
EXIT_DIFFERS: Final = 1
EXIT_UNAVAILABLE: Final = 69  # EX_UNAVAILABLE
EXIT_CONFIG: Final = 78  # EX_CONFIG

Differences = Mapping[str, Sequence[str]]


class ProvisionError(Exception):
    """The streams are not as declared.

    ProvisionError
    ├── BrokerUnreachable   nobody who could declare a stream answered
    └── StreamsDiffer       some are there and are something else
    """


class BrokerUnreachable(ProvisionError):
    """The broker did not answer, or refused."""


class StreamsDiffer(ProvisionError):
    """Streams that are there and not as declared: name → fields."""

    def __init__(self, differences: Differences) -> None:
        listed = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in sorted(differences.items()))
        super().__init__(
            f"not as declared, and left as they are: {listed}. Update them with "
            "`python -m wardmesh.server.provision --update`, or choose what is there."
        )
        self.differences = differences


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What was done, by name; what is in neither was as declared."""

    created: tuple[str, ...]
    updated: tuple[str, ...]


async def provision(
    servers: Sequence[str],
    seed: str,
    choices: Choices = Choices(),  # noqa: B008 - frozen
    *,
    ca_file: Path | None = None,
    update: bool = False,
) -> Provisioned:
    """Declare every stream and bucket. `seed` is the provisioner's."""
    client = Client()
    troubles: list[Exception] = []

    async def note(error: Exception) -> None:
        troubles.append(error)

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await client.connect(
                list(servers),
                name=f"wardmesh-{PROVISIONER}",
                nkeys_seed_str=seed,
                inbox_prefix=inbox_prefix(PROVISIONER),
                max_reconnect_attempts=-1,
                reconnect_time_wait=RETRY_SECONDS,  # type: ignore[arg-type]  # it sleeps that long; a float does
                error_cb=note,
                **tls_options(servers, ca_file),
            )
            return await _declare_all(client, choices, update=update)
    except (nats.errors.Error, TimeoutError, OSError) as error:
        said = "; ".join(dict.fromkeys(str(trouble) for trouble in (*troubles[-4:], error) if str(trouble)))
        raise BrokerUnreachable(f"the broker does not answer the provisioner: {said or 'no word from it'}") from error
    finally:
        await client.close()


async def _declare_all(client: Client, choices: Choices, *, update: bool) -> Provisioned:
    jetstream = client.jetstream(timeout=CALL_SECONDS)
    declarations = declared(choices)
    outcomes = await asyncio.gather(*[_declare(jetstream, config, update=update) for config in declarations.values()])
    differences = {outcome.name: outcome.differing for outcome in outcomes if outcome.differing}
    if differences:
        raise StreamsDiffer(differences)
    return Provisioned(
        created=tuple(outcome.name for outcome in outcomes if outcome.created),
        updated=tuple(outcome.name for outcome in outcomes if outcome.updated),
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    name: str
    created: bool = False
    updated: bool = False
    differing: tuple[str, ...] = ()


async def _declare(jetstream: JetStreamContext, config: StreamConfig, *, update: bool) -> _Outcome:
    """Declare one stream, trying again while the broker has no leader for it."""
    while True:
        try:
            return await _try_to_declare(jetstream, config, update=update)
        except (nats.js.errors.ServiceUnavailableError, nats.errors.NoRespondersError, nats.errors.TimeoutError):
            await asyncio.sleep(RETRY_SECONDS)  # `provision` bounds how often


async def _try_to_declare(jetstream: JetStreamContext, config: StreamConfig, *, update: bool) -> _Outcome:
    name = str(config.name)
    created = False
    try:
        present = (await jetstream.stream_info(name)).config
    except nats.js.errors.NotFoundError:
        try:
            present = (await jetstream.add_stream(config)).config
            created = True
        except nats.js.errors.BadRequestError:
            # Another provisioner was faster, with other choices; or the broker wants it otherwise, and says so again.
            present = (await jetstream.stream_info(name)).config
    differing = drift(config, present)
    if not differing or not update:
        return _Outcome(name, created=created, differing=tuple(differing))
    try:
        changed = (await jetstream.update_stream(config)).config
    except nats.js.errors.APIError as error:
        _log.error("stream %s cannot be changed in place: %s", name, error.description)
        return _Outcome(name, differing=tuple(differing))
    return _Outcome(name, updated=True, differing=tuple(drift(config, changed)))


class ProvisionSettings(BaseSettings):
    """What the one-shot container is told."""

    model_config = SettingsConfigDict(env_prefix="WARDMESH_", frozen=True, extra="ignore", hide_input_in_errors=True)

    nats_url: str
    """One or several servers, separated by commas."""
    nats_seed_file: Path
    """The seed of the nkey user `provisioner`."""
    nats_ca_file: Path | None = None
    stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    events_max_bytes: Annotated[int, Field(ge=MIB)] = EVENTS_MAX_BYTES
    audit_max_bytes: Annotated[int, Field(ge=MIB)] = AUDIT_MAX_BYTES

    def choices(self) -> Choices:
        return Choices(
            replicas=self.stream_replicas,
            events_max_bytes=self.events_max_bytes,
            audit_max_bytes=self.audit_max_bytes,
        )


_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Provision the broker that the environment names."""
    parser = argparse.ArgumentParser(
        prog="python -m wardmesh.server.provision",
        description="Declare the streams and buckets of a mesh. Exits with 1 if some are there and differ.",
        epilog="Environment: WARDMESH_NATS_URL, WARDMESH_NATS_SEED_FILE (of the user `provisioner`), "
        "WARDMESH_NATS_CA_FILE, WARDMESH_STREAM_REPLICAS, WARDMESH_EVENTS_MAX_BYTES, WARDMESH_AUDIT_MAX_BYTES.",
    )
    parser.add_argument("--update", action="store_true", help="change what differs, as far as the broker allows")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="provision: %(message)s", stream=sys.stderr)
    try:
        settings = ProvisionSettings()
        seed = read_seed(settings.nats_seed_file)
    except ValidationError as error:
        missing = ", ".join(sorted(f"WARDMESH_{str(item['loc'][0]).upper()}" for item in error.errors()))
        sys.stderr.write(f"provision: set or correct {missing}\n")
        return EXIT_CONFIG
    except OSError as error:
        sys.stderr.write(f"provision: {error}\n")
        return EXIT_CONFIG
    servers = [server.strip() for server in settings.nats_url.split(",") if server.strip()]
    try:
        done = asyncio.run(
            provision(servers, seed, settings.choices(), ca_file=settings.nats_ca_file, update=chosen.update)
        )
    except StreamsDiffer as error:
        sys.stderr.write(f"provision: {error}\n")
        return EXIT_DIFFERS
    except BrokerUnreachable as error:
        sys.stderr.write(f"provision: {error}\n")
        return EXIT_UNAVAILABLE
    sys.stdout.write(
        f"provisioned: made {', '.join(done.created) or 'none'}; changed {', '.join(done.updated) or 'none'}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

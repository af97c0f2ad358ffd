"""Request and reply through all gates, 64 in flight, one process a side, against raw nats-py in the same run.

The measured side is the real one: `wardmesh.server.operations` with every gate (reply guard, a token verified against
a real key, rate limit, permission, schema, handler, audit) answering the real client library. The floor is an echo
with nats-py alone, the same bodies, no header. Between the two, for the profile's sake, an echo that also carries the
access token's header.
"""

from __future__ import annotations

import statistics

from benchmarks.report import Figure, median_ratio, step
from benchmarks.servers import broker, process, run

IN_FLIGHT = 64
SERVER = "benchmarks.request_reply_server"
CLIENT = "benchmarks.request_reply_client"


def measure(*, short: bool = False) -> list[Figure]:
    rounds, calls = (1, 2_000) if short else (5, 20_000)
    rates: dict[str, list[float]] = {name: [] for name in ("raw", "header", "gates", "durable")}
    with broker() as url:
        for number in range(rounds):
            for kind, measured in rates.items():
                step(f"round {number + 1} of {rounds}: {kind}")
                with process(SERVER, url, kind) as token:
                    measured.append(float(run(CLIENT, url, kind, str(IN_FLIGHT), str(calls), token)))
    medians = {kind: f"{statistics.median(found):,.0f}/s" for kind, found in rates.items()}
    gates = list(zip(rates["gates"], rates["raw"], strict=True))
    header = list(zip(rates["gates"], rates["header"], strict=True))
    durable = list(zip(rates["durable"], rates["raw"], strict=True))
    return [
        Figure(
            "all gates, against raw nats-py", median_ratio(gates), "×", 0.45, "more",
            f"{medians['gates']} against {medians['raw']}, {IN_FLIGHT} in flight; {median_ratio(header):.2f} of an echo"
            f" that carries the same access token ({medians['header']})",
        ),
        Figure(
            "… and a durable audit acknowledgement", median_ratio(durable), "×", 0.35, "more",
            f"{medians['durable']} against {medians['raw']}",
        ),
    ]  # fmt: skip

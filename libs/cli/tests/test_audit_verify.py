"""`wardmesh audit verify` on a folder, on a static web server, and on servers that lie, stall and swell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from command_shell import Shell
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardmesh.audit_export import export_log
from wardmesh.audit_files import FileRefused
from wardmesh.audit_rows import Format
from wardmesh.audit_selection import export_selection
from wardmesh.contracts.audit import Checkpoint, Filter, Leaves, Nodes, SelectedLeaves
from wardmesh.crypto import checkpoint as signed
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import SignedNote, Signer
from wardmesh_cli.failures import CommandFailed
from wardmesh_cli.web_files import MAX_TRIES, WebFiles

LOG_KEY = Signer.from_seed("wardmesh.test/ws_1", bytes(range(32)))
KEY = str(LOG_KEY.verifier)
LEAVES = [b'{"entry":%d}' % number for number in range(600)]
URL = "https://log.example/v1/ws_1/log"


def note(size: int, leaves: list[bytes] = LEAVES) -> bytes:
    root = root_of([leaf_hash(leaf) for leaf in leaves[:size]])
    return signed.sign_checkpoint(signed.Checkpoint(LOG_KEY.verifier.name, size, root), LOG_KEY)


class Log:
    async def checkpoint(self) -> Checkpoint:
        return Checkpoint(note=note(len(LEAVES)).decode(), verifier_key=KEY, size=len(LEAVES))

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        page = tuple(LEAVES[start : start + limit])
        return Leaves(leaves=page, hashes=tuple(map(leaf_hash, page)))


class Part(Log):
    """The log of nothing but its checkpoint, as an export of a part of it reads it: nothing matches."""

    def __init__(self, mldsa: MldsaSigner) -> None:
        parsed = SignedNote.parse(note(len(LEAVES)))
        line = mldsa.sign(signed.Checkpoint.parse_text(parsed.text))
        self._note = SignedNote(parsed.text, (*parsed.signatures, line)).encode().decode()

    async def checkpoint(self) -> Checkpoint:
        return Checkpoint(note=self._note, verifier_key=KEY, size=len(LEAVES))

    async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        return SelectedLeaves(indexes=(), leaves=(), next_start=end)

    async def nodes(self, *, size: int, nodes: tuple[tuple[int, int], ...]) -> Nodes:
        hashes = (
            root_of(list(map(leaf_hash, LEAVES[at << level : min(size, (at + 1) << level)]))) for level, at in nodes
        )
        return Nodes(hashes=tuple(hashes))


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    await export_log(Log(), tmp_path / "export")
    return tmp_path / "export"


def static(folder: Path, *, without: tuple[str, ...] = ()) -> Callable[[httpx2.Request], httpx2.Response]:
    """A web server that knows nothing of logs."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/v1/ws_1/log/")
        file = folder / path
        if path in without or not file.is_file():
            return httpx2.Response(404)
        return httpx2.Response(200, stream=httpx2.ByteStream(file.read_bytes()))

    return answer


def test_a_folder_behind_a_url_is_verified_like_a_folder(wardmesh: Shell, export: Path) -> None:
    wardmesh.http = static(export)
    ran = wardmesh("audit", "verify", URL)
    assert (ran.status, "600 lines of entries.ndjson" in ran.out) == (0, True), ran.out
    assert "this key came with the export" in ran.out
    wardmesh.http = static(export, without=("entries.ndjson", "verifier-key"))  # as the gateway serves it
    ran = wardmesh("audit", "verify", f"{URL}/", "--key", KEY)
    assert (ran.status, "entries.ndjson" in ran.out) == (0, False), ran.out
    assert wardmesh("audit", "verify", URL).status == 1  # nobody said which key


@pytest.mark.parametrize("path", ["tile/entries/001", "tile/0/001", "tile/1/000.p/2", "entries.ndjson", "checkpoint"])
def test_a_byte_that_a_server_changes_is_found(wardmesh: Shell, export: Path, path: str) -> None:
    content = bytearray((export / path).read_bytes())
    content[-3] ^= 1
    (export / path).write_bytes(content)
    wardmesh.http = static(export)
    ran = wardmesh("audit", "verify", URL, "--key", KEY, "--json")
    assert (ran.status, ran.json["sound"]) == (1, False)
    if path == "tile/entries/001":
        assert ran.json["damage"]["entry"] == 511


def test_what_a_server_leaves_out_is_missed(wardmesh: Shell, export: Path) -> None:
    for path, entry in (("tile/entries/001", 256), ("tile/0/002.p/88", 512)):
        wardmesh.http = static(export, without=(path,))
        assert wardmesh("audit", "verify", URL, "--key", KEY, "--json").json["damage"]["entry"] == entry


def test_checkpoints_that_were_kept(wardmesh: Shell, export: Path, tmp_path: Path) -> None:
    names = []
    for size in (0, 1, 256, 300, 600):
        file = tmp_path / f"kept-{size}"
        file.write_bytes(note(size))
        names += ["--since", str(file)]
    ran = wardmesh("audit", "verify", str(export), "--key", KEY, *names)
    assert (ran.status, ran.out.count("extends    ")) == (0, 5), ran.out

    forked = tmp_path / "forked"
    forked.write_bytes(note(300, [*LEAVES[:200], b"another", *LEAVES[201:]]))
    ran = wardmesh("audit", "verify", str(export), "--key", KEY, *names, "--since", str(forked), "--json")
    assert (ran.status, ran.json["damage"]["entry"]) == (1, 300)
    forked.write_bytes(note(601, [*LEAVES, b"more"]))
    ran = wardmesh("audit", "verify", str(export), "--key", KEY, "--since", str(forked))
    assert (ran.status, "the log ends before entry 600" in ran.out) == (1, True)
    forked.write_bytes(signed.sign_checkpoint(signed.Checkpoint("x/ws_2", 1, bytes(32)), LOG_KEY))
    assert wardmesh("audit", "verify", str(export), "--key", KEY, "--since", str(forked)).status == 2


def test_a_server_that_swells_is_not_read_to_its_end(export: Path) -> None:
    sent = 0

    class Endless(httpx2.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal sent
            while True:
                sent += 65536
                yield bytes(65536)

    transport = httpx2.MockTransport(lambda _request: httpx2.Response(200, stream=Endless()))
    files = WebFiles(URL, lambda: None, transport=transport)
    with pytest.raises(Exception, match="larger than it can be"):
        files.read("tile/0/000", 8192)
    assert sent <= 4 * 65536


def test_a_list_is_taken_in_whole_or_not_at_all() -> None:
    asked: list[str] = []
    chunks: list[bytes | Exception] = []

    class Body(httpx2.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(200, stream=Body())

    files = WebFiles(URL, lambda: None, transport=httpx2.MockTransport(answer))
    chunks[:] = [b"a" * 9_000_000, b"b\nc"]
    taken = files.take("kept.ndjson", 600, 10_000_000)
    assert taken is not None
    with taken:
        assert (len(taken.readline(10_000_000)), taken.read()) == (9_000_002, b"c")
    assert asked == [f"{URL}/kept.ndjson?size=600"]
    with pytest.raises(FileRefused, match="larger than it can be"):
        files.take("kept.ndjson", 600, 9_000_000)
    chunks[:] = [b"{}\n", httpx2.RemoteProtocolError("cut")]
    with pytest.raises(CommandFailed, match="broke off"):
        files.take("kept.ndjson", 600, 100)
    for status in (404, 405):  # nobody has one: a log of which nothing ends, a gateway of before
        transport = httpx2.MockTransport(lambda _request, status=status: httpx2.Response(status))
        assert WebFiles(URL, lambda: None, transport=transport).take("kept.ndjson", 600, 100) is None


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(302, headers={"location": "https://elsewhere.example/"}),
        httpx2.Response(200, headers={"content-encoding": "gzip"}, content=b""),
        httpx2.Response(401), httpx2.Response(403), httpx2.Response(500),
    ],
    ids=["redirect", "encoded", "401", "403", "500"],
)  # fmt: skip
def test_what_is_no_answer_is_no_damage(wardmesh: Shell, answer: httpx2.Response) -> None:
    wardmesh.http = lambda _request: answer
    ran = wardmesh("audit", "verify", URL, "--key", KEY)
    assert (ran.status, "log.example does not give out checkpoint" in ran.err) == (1, True)


def test_a_server_that_asks_to_wait_is_waited_for_within_bounds() -> None:
    pauses: list[float] = []
    answers = [
        httpx2.Response(429, headers={"retry-after": "2"}), httpx2.Response(503),
        httpx2.Response(200, stream=httpx2.ByteStream(b"x")),
    ]  # fmt: skip
    transport = httpx2.MockTransport(lambda _request: answers.pop(0))
    assert WebFiles(URL, lambda: None, transport=transport, sleep=pauses.append).read("checkpoint", 9) == b"x"
    assert pauses == [2.0, 1.0]
    busy = httpx2.MockTransport(lambda _request: httpx2.Response(429, headers={"retry-after": "999999"}))
    pauses.clear()
    with pytest.raises(CommandFailed):
        WebFiles(URL, lambda: None, transport=busy, sleep=pauses.append).read("checkpoint", 9)
    assert pauses == [30.0] * (MAX_TRIES - 1)


def test_a_token_goes_to_its_server_and_never_in_plain_text(wardmesh: Shell, export: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("eyJ0\n")
    seen: set[str | None] = set()
    server = static(export)

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.add(request.headers.get("authorization"))
        return server(request)

    wardmesh.http = answer
    token = ("--token-file", str(tmp_path / "token"))
    assert wardmesh("audit", "verify", URL, "--key", KEY, *token).status == 0
    assert seen == {"Bearer eyJ0"}
    seen.clear()
    assert wardmesh("audit", "verify", "http://log.example/v1/ws_1/log", "--key", KEY, *token).status == 2
    assert seen == set()
    assert wardmesh("audit", "verify", "http://127.0.0.1:8080/v1/ws_1/log", "--key", KEY, *token).status == 0


def test_what_is_no_export_is_said_to_be_none(wardmesh: Shell, tmp_path: Path) -> None:
    assert wardmesh("audit", "verify", str(tmp_path / "nowhere")).status == 2


def test_an_mldsa_key_that_is_named_must_have_signed(wardmesh: Shell, export: Path) -> None:
    signer = MldsaSigner(LOG_KEY.verifier.name, MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
    key = ("--key", KEY, "--mldsa-key", str(signer.verifier))
    assert "has not signed" in wardmesh("audit", "verify", str(export), *key).out
    parsed = SignedNote.parse(note(600))
    line = signer.sign(signed.Checkpoint.parse_text(parsed.text))
    (export / "checkpoint").write_bytes(SignedNote(parsed.text, (*parsed.signatures, line)).encode())
    ran = wardmesh("audit", "verify", str(export), *key)
    assert (ran.status, "ML-DSA-44 key has signed it too" in ran.out) == (0, True), ran.out
    assert wardmesh("audit", "verify", str(export), "--key", KEY).status == 0
    assert wardmesh("audit", "verify", str(export), "--key", KEY, "--mldsa-key", KEY).status == 2


def test_an_mldsa_key_must_have_signed_a_part_too(wardmesh: Shell, tmp_path: Path) -> None:
    signer = MldsaSigner(LOG_KEY.verifier.name, MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
    part = tmp_path / "part"
    asyncio.run(export_selection(Part(signer), part, Format.NDJSON, Filter()))
    key = ("--key", KEY, "--mldsa-key")
    ran = wardmesh("audit", "verify", str(part), *key, str(signer.verifier))
    assert (ran.status, "ML-DSA-44 key has signed it too" in ran.out) == (0, True), ran.out
    assert wardmesh("audit", "verify", str(part), *key, str(signer.verifier), "--json").json["mldsa_checked"]
    assert wardmesh("audit", "verify", str(part), "--key", KEY).status == 0
    another = MldsaSigner(LOG_KEY.verifier.name, MLDSA44PrivateKey.from_seed_bytes(bytes(31) + b"1"))
    ran = wardmesh("audit", "verify", str(part), *key, str(another.verifier))
    assert (ran.status, "has not signed" in ran.out) == (1, True), ran.out
    for no_key in (KEY, "", "x" * 10_000):
        assert wardmesh("audit", "verify", str(part), *key, no_key).status == 2, no_key

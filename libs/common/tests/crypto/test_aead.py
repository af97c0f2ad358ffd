"""Sealed values open with their own key in their own context, and with nothing else."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import assume, given
from hypothesis import strategies as st

from wardmesh.crypto.aead import OVERHEAD_BYTES, new_key, open_, opened, seal, unwrap, unwrapped, wrap
from wardmesh.crypto.encoding import length_prefixed
from wardmesh.crypto.errors import InvalidKey, Undecryptable

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
CONTEXT = [b"ws_1", b"openai/api-key", b"7"]

keys = st.binary(min_size=32, max_size=32)
contexts = st.lists(st.binary(max_size=12), max_size=4)


def counting(size: int) -> bytes:
    """Predictable "randomness" for pinned values."""
    return bytes(range(size))


def test_the_format_is_pinned() -> None:
    sealed = seal(KEY, b"secret", CONTEXT, random=counting)
    # Built from the description in the module, not by its code.
    info = length_prefixed(b"wardmesh/aead/v1/value")
    derived = HKDF(SHA256(), 64, counting(32), info).derive(KEY)
    ciphertext = AESGCM(derived[:32]).encrypt(counting(12), b"secret", length_prefixed(*CONTEXT))
    assert sealed == b"\x01" + counting(32) + derived[32:] + counting(12) + ciphertext
    assert len(sealed) == len(b"secret") + OVERHEAD_BYTES


@pytest.mark.property
@given(keys, st.binary(max_size=200), contexts)
def test_round_trip(key: bytes, plaintext: bytes, context: list[bytes]) -> None:
    sealed = seal(key, plaintext, context)
    assert open_(key, sealed, context) == plaintext
    with opened(key, sealed, context) as memory:
        assert memory == plaintext


@pytest.mark.property
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, data.draw(st.binary(max_size=40)), CONTEXT))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Undecryptable):
        open_(KEY, bytes(sealed), CONTEXT)


@pytest.mark.property
@given(st.data())
def test_what_is_cut_or_extended_is_refused(data: st.DataObject) -> None:
    sealed = seal(KEY, b"some plaintext", CONTEXT)
    for damaged in (sealed[: data.draw(st.integers(0, len(sealed) - 1))], sealed + data.draw(st.binary(min_size=1))):
        with pytest.raises(Undecryptable):
            open_(KEY, damaged, CONTEXT)


@pytest.mark.property
@given(contexts, contexts)
def test_a_moved_ciphertext_is_refused(context: list[bytes], other: list[bytes]) -> None:
    assume(context != other)
    with pytest.raises(Undecryptable):
        open_(KEY, seal(KEY, b"plaintext", context), other)


def test_bytes_moved_between_context_fields_are_refused() -> None:
    with pytest.raises(Undecryptable):
        open_(KEY, seal(KEY, b"plaintext", [b"ws_1", b"0/key"]), [b"ws_10", b"/key"])


@pytest.mark.property
@given(keys, keys)
def test_another_key_is_refused(key: bytes, other: bytes) -> None:
    assume(key != other)
    with pytest.raises(Undecryptable):
        open_(other, seal(key, b"plaintext", CONTEXT), CONTEXT)


def test_plain_gcm_opens_one_ciphertext_under_two_keys_and_ours_does_not() -> None:
    """The attack that the commitment is for: a ciphertext made by somebody who knows both keys."""
    salt, nonce, aad = bytes(32), bytes(12), length_prefixed(*CONTEXT)
    info = length_prefixed(b"wardmesh/aead/v1/value")
    derived = [HKDF(SHA256(), 64, salt, info).derive(key) for key in (KEY, OTHER_KEY)]
    colliding = gcm_collision(derived[0][:32], derived[1][:32], nonce, aad)

    # Without a commitment both keys open it, to different plaintexts.
    plaintexts = {AESGCM(keys[:32]).decrypt(nonce, colliding, aad) for keys in derived}
    assert len(plaintexts) == 2

    # With one, at most the key whose commitment stands there does.
    for owner, other in ((0, 1), (1, 0)):
        sealed = b"\x01" + salt + derived[owner][32:] + nonce + colliding
        assert open_((KEY, OTHER_KEY)[owner], sealed, CONTEXT) in plaintexts
        with pytest.raises(Undecryptable):
            open_((KEY, OTHER_KEY)[other], sealed, CONTEXT)


def test_values_and_keys_are_different_domains() -> None:
    with pytest.raises(Undecryptable):
        open_(KEY, wrap(KEY, OTHER_KEY, CONTEXT), CONTEXT)
    with pytest.raises(Undecryptable):
        unwrap(KEY, seal(KEY, OTHER_KEY, CONTEXT), CONTEXT)


def test_three_layers() -> None:
    customer_key, scope_key, data_key = new_key(), new_key(), new_key()
    wrapped_scope = wrap(customer_key, scope_key, [b"ws_1"])
    wrapped_data = wrap(scope_key, data_key, [b"ws_1", b"path", b"1"])
    sealed = seal(data_key, b"value", [b"ws_1", b"path", b"1", wrapped_data])

    with (
        unwrapped(customer_key, wrapped_scope, [b"ws_1"]) as scope,
        unwrapped(scope, wrapped_data, [b"ws_1", b"path", b"1"]) as key,
        opened(key, sealed, [b"ws_1", b"path", b"1", wrapped_data]) as value,
    ):
        assert value == b"value"
    rewrapped = wrap(scope_key, data_key, [b"ws_1", b"path", b"1"])
    with pytest.raises(Undecryptable):
        open_(data_key, sealed, [b"ws_1", b"path", b"1", rewrapped])


def test_memory_is_overwritten_when_the_block_ends_however_it_ends() -> None:
    kept = []
    with unwrapped(KEY, wrap(KEY, OTHER_KEY, []), []) as key:
        kept.append(key)
    with contextlib.suppress(LookupError), opened(KEY, seal(KEY, b"secret", []), []) as value:
        kept.append(value)
        raise LookupError
    assert kept == [bytearray(32), bytearray(6)]


def test_nothing_is_said_about_why() -> None:
    sealed = seal(KEY, b"plaintext", CONTEXT)
    messages = set()
    for key, data, context in (
        (OTHER_KEY, sealed, CONTEXT),
        (KEY, sealed, []),
        (KEY, sealed[:-1], CONTEXT),
        (KEY, b"", []),
    ):
        with pytest.raises(Undecryptable) as caught:
            open_(key, data, context)
        messages.add(str(caught.value))
    assert len(messages) == 1


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_keys_have_32_bytes(size: int) -> None:
    key = bytes(size)
    with pytest.raises(InvalidKey):
        seal(key, b"", [])
    with pytest.raises(InvalidKey):
        open_(key, seal(KEY, b"", []), [])
    with pytest.raises(InvalidKey):
        wrap(KEY, key, [])


@pytest.mark.parametrize("wrong", [11, 13])
def test_a_random_source_that_miscounts_is_refused(wrong: int) -> None:
    # AES-GCM would take a nonce of 8 to 128 bytes, and be weaker for it.
    with pytest.raises(ValueError, match="random source"):
        seal(KEY, b"", [], random=lambda size: bytes(wrong if size == 12 else size))


def test_every_message_has_its_own_key_and_nonce() -> None:
    headers = {seal(KEY, b"", [])[: OVERHEAD_BYTES - 16] for _ in range(64)}
    assert len(headers) == 64


# --- Making a GCM collision ------------------------------------------------------------------------------------------


def gcm_collision(first: bytes, second: bytes, nonce: bytes, aad: bytes) -> bytes:
    """Return one ciphertext with its tag that is authentic under both AES keys (Dodis et al., CRYPTO 2018).

    The tag is linear in the ciphertext's blocks over GF(2^128), so that one free block can make both tags equal.
    """
    length = (len(aad) * 8 << 64) | 16 * 8
    padded = aad + bytes(-len(aad) % 16)
    blocks = [int.from_bytes(padded[at : at + 16], "big") for at in range(0, len(padded), 16)]

    def parts(key: bytes) -> tuple[int, int]:
        subkey, mask = (block_cipher(key, block) for block in (bytes(16), nonce + b"\0\0\0\1"))
        fixed = 0
        for block in blocks:
            fixed = multiply(fixed ^ block, subkey)
        square = multiply(subkey, subkey)
        # tag = fixed·H² + C·H² + length·H + mask, where C is the free block
        return multiply(fixed, square) ^ multiply(length, subkey) ^ mask, square

    (known, factor), (other_known, other_factor) = parts(first), parts(second)
    block = multiply(known ^ other_known, invert(factor ^ other_factor))
    return block.to_bytes(16, "big") + (known ^ multiply(block, factor)).to_bytes(16, "big")


def block_cipher(key: bytes, block: bytes) -> int:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - one raw block, to attack GCM with
    return int.from_bytes(encryptor.update(block), "big")


def multiply(left: int, right: int) -> int:
    """Multiplication in GCM's field (NIST SP 800-38D section 6.3)."""
    product = 0
    for position in range(127, -1, -1):
        if left >> position & 1:
            product ^= right
        right = (right >> 1) ^ (0xE1 << 120 if right & 1 else 0)
    return product


def invert(value: int) -> int:
    """Fermat: value^(2^128 - 2)."""
    result, power = 1 << 127, value
    for _ in range(127):
        power = multiply(power, power)
        result = multiply(result, power)
    return result

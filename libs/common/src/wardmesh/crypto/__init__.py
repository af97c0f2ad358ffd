"""What two parties must agree on byte for byte, and nothing else.

    encoding      unambiguous byte strings, strict base64 and decimals
    aead          key-committing AES-256-GCM; wrapping one key under another
    sealing       HPKE: for one holder's eyes only
    jwk           Curve25519 keys as JWK, and their thumbprints
    bridge        the bytes that a bridge message's MAC covers, and the MAC
    merkle        RFC 6962 hashing, and the frontier of a growing tree
    tlog          RFC 6962 inclusion and consistency proofs
    tiles         C2SP tlog-tiles: paths, tiles, entry bundles
    tile_builder  from leaf hashes to tiles, in a stream
    note          C2SP signed notes
    checkpoint    C2SP tlog-checkpoints
    log_verify    a whole log against its signed checkpoint
    errors        the one error tree

What always holds: the modules are pure. They read no clock, no file and no network; where randomness can be an
argument it is one. They depend on `cryptography` and the standard library only.

On failure: a `CryptoError`, whose text is a fixed sentence: never a key, a plaintext or bytes that came from outside.
"""

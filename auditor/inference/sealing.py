"""How a batch is timed without a gap: its inputs come covered, and are worth nothing before the key; its outputs are pledged by a digest.

A delegate shares its process with what reads the inputs and sends the outputs. Could it read them as they come, it would compute before
the clock starts; could it change them until they are sent, after it has stopped. Both sides need numpy, which comes with every runtime.
"""

from __future__ import annotations

import hashlib

KEY_BYTES = 16


def covered(data: bytes, key: bytes, number: int) -> bytes:
    """The inputs of inference `number` of a batch, combined with the key's stream; the same again uncovers them.

    The stream is Philox's (Salmon et al., Parallel random numbers: as easy as 1, 2, 3; 2011): nobody need be unable to break it for good,
    only for the milliseconds until the key comes, and ciphers of the standard library take ten times as long.
    """
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    words = -(-len(data) // 8)
    stream = np.random.Philox(counter=number << 192, key=int.from_bytes(key, "little")).random_raw(words)
    return (np.frombuffer(data, np.uint8) ^ stream.view(np.uint8)[: len(data)]).tobytes()


def digest(data: bytes) -> str:
    """What pledges outputs."""
    return hashlib.sha256(data).hexdigest()

"""Where every random number of a simulation comes from."""

import hashlib

import numpy as np


def generator(seed: int, *path: str) -> np.random.Generator:
    """An independent stream for `path` (an asset, then what the numbers are for).

    Streams depend on nothing but the seed and their own path, so a fleet may grow without changing those already in it.
    """
    digest = hashlib.sha256("/".join(path).encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))

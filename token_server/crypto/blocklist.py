"""The packaged list of common passwords (crypto/data/README.md names its origin and licences).

Read from the package on first use, which takes tens of milliseconds: call it in a thread, when a
password is being set; never at import and never for a login.
"""

import functools
import gzip
from importlib import resources


@functools.cache
def load_blocklist() -> frozenset[str]:
    """About 21,600 common passwords of 8 characters and more, as `password_policy.folded`."""
    packed = resources.files("token_server.crypto").joinpath("data/common-passwords.txt.gz")
    return frozenset(gzip.decompress(packed.read_bytes()).decode("utf-8").splitlines())

"""What the text of a refresh token says to who can read it (docs/refresh-tokens.md).

Read here by position and not by the server's own code, so that a change of the layout is noticed.
"""

import base64


def family_of(refresh_token: str) -> bytes:
    return _raw(refresh_token)[2:18]


def generation_of(refresh_token: str) -> int:
    return int.from_bytes(_raw(refresh_token)[18:22], "big")


def _raw(refresh_token: str) -> bytes:
    return base64.urlsafe_b64decode(refresh_token.removeprefix("rt_"))

"""Status lists as a stranger reads them: decoded by the draft's text alone, none of our code."""

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.types import Options
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.storage import families
from token_server.storage.engine import Store


@dataclass(frozen=True, slots=True)
class ReadList:
    """A status list token whose signature is good."""

    header: dict[str, Any]
    claims: dict[str, Any]
    statuses: list[int]

    @property
    def revoked(self) -> set[int]:
        return {index for index, status in enumerate(self.statuses) if status}


def read_list(token: bytes | str, jwks: dict[str, Any], now: int) -> ReadList:
    """Signature by PyJWT and the published keys; statuses as §4.1 and §4.2 say."""
    header = jwt.get_unverified_header(token)
    key = jwt.PyJWKSet.from_dict(jwks)[header["kid"]]
    without_clock: Options = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(token, key, algorithms=["RS256"], options=without_clock)
    assert claims["iat"] <= now < claims["exp"]
    listed = claims["status_list"]
    return ReadList(header, claims, decode_statuses(listed["bits"], listed["lst"]))


def decode_statuses(bits: int, lst: str) -> list[int]:
    """Every status of a list: base64url, ZLIB, then `bits` at a time from the lowest on."""
    packed = zlib.decompress(base64.urlsafe_b64decode(lst + "=" * (-len(lst) % 4)))
    number = int.from_bytes(packed, "little")
    if bits == 1:
        return [int(digit) for digit in reversed(f"{number:0{len(packed) * 8}b}")]
    mask = (1 << bits) - 1
    return [number >> at & mask for at in range(0, len(packed) * 8, bits)]


async def continue_at(conn: AsyncConnection, table: str, column: str, number: int) -> None:
    """The next row of `table` gets this number."""
    if conn.dialect.name == "postgresql":
        statement = f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), :last)"
        await conn.execute(text(statement), {"last": number - 1})
        return
    values = {"last": number - 1, "table": table}
    done = await conn.execute(
        text("UPDATE sqlite_sequence SET seq = :last WHERE name = :table"), values
    )
    if done.rowcount == 0:
        await conn.execute(
            text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :last)"), values
        )


async def revoke(store: Store, family_id: bytes, at: int) -> None:
    """End the session, by a transaction that bears the instant `at`."""
    async with store.write() as conn:
        assert await families.revoke_family(conn, family_id, "test", at)

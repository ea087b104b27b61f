"""What can be killed: every operation that writes signing keys, as commands and servers do it.

Each is prepared once, then played in a process of its own on a copy: the command line's own
entry, or a server's upkeep with a clock that jumps from one instant at which something is due to
the next. A second run of the same operation finishes what a killed one left.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.faults.key_steps import Stepper
from tests.support.process import Installation
from tests.support.server import ManualClock, make_settings
from token_server.cli.main import cli
from token_server.config import Settings
from token_server.core.key_policy import KEEP_RETIRED_S
from token_server.crypto.secrets import encode_base64url
from token_server.logs import configure_logging
from token_server.records import KeyState
from token_server.runtime import Clock, Runtime, SystemClock, open_runtime
from token_server.services.key_upkeep import KeyUpkeep

LEAD_S = 600
ROTATE_EVERY_S = 7200
TTL_S = 120
OVERRIDES = {
    "KEY_LEAD": f"{LEAD_S}s",
    "KEY_ROTATE_EVERY": f"{ROTATE_EVERY_S}s",
    "JWKS_MAX_AGE": "60s",
    "KEY_RELOAD_INTERVAL": "1s",
    "CLOCK_SKEW": "5s",
    "ACCESS_TOKEN_TTL": f"{TTL_S}s",
}
EPOCH = 1_800_000_000  # when a server's upkeep is played
Act = Callable[[Installation, Stepper, int], None]


@dataclass(frozen=True, slots=True)
class Operation:
    """`act` gets the instant from which it plays, 0 for all of it. `is_one_change`: after a kill
    the keyring is the old one or the new one, with no state between."""

    name: str
    prepare: Callable[[Installation], None]
    act: Act
    is_one_change: bool = True
    is_first_start: bool = False
    changes_records: bool = True  # not only how private halves are kept
    writes_database: bool = False  # its statements are steps, too, when the keys are files
    done_codes: tuple[int, ...] = (0,)  # of the run that finishes
    clock_at: int = 0  # 0: the machine's


def server_settings(installation: Installation) -> Settings:
    return make_settings(
        installation.database_url,
        installation.directory,
        key_lead_s=LEAD_S,
        key_rotate_every_s=ROTATE_EVERY_S,
        jwks_max_age_s=60,
        key_reload_interval_s=1,
        clock_skew_s=5,
        access_token_ttl_s=TTL_S,
        log_level="error",
        key_store=installation.overrides.get("KEY_STORE", "directory"),
        master_key_file=installation.directory
        / installation.overrides.get("MASTER_KEY_FILE", "keys/master.key"),
    )


def command(*arguments: str) -> Act:
    """`token-server ARGUMENTS`; `{active}` and `{next}` stand for kids as they were prepared."""

    def act(installation: Installation, _stepper: Stepper, _from: int) -> None:
        os.environ.update(installation.environ())
        os.chdir(installation.directory)
        kids = _read_kids(installation)
        cli.main([argument.format(**kids) for argument in arguments], "token-server")

    return act


def first_start(installation: Installation, _stepper: Stepper, _from: int) -> None:
    """A server begins: database, master key, keys, and what it does before its first request."""
    asyncio.run(_begin(installation, SystemClock()))


def upkeep(offsets: Sequence[int]) -> Act:
    """A server that lives through EPOCH plus each of `offsets`, and signs a token at each."""

    def act(installation: Installation, stepper: Stepper, begin: int) -> None:
        instants = [EPOCH + offset for offset in offsets if EPOCH + offset >= begin]
        asyncio.run(_live(installation, instants, stepper))

    return act


async def _live(
    installation: Installation, instants: Sequence[int], stepper: Stepper | None
) -> None:
    configure_logging("json", "error")
    clock = ManualClock(instants[0])
    async with open_runtime(server_settings(installation), clock=clock) as runtime:
        keeper = KeyUpkeep(runtime)
        for number, instant in enumerate(instants):
            clock.advance(instant - clock.at)
            if stepper is not None:
                stepper.tell(at=instant)
            if number == 0:
                await keeper.start()
            await keeper.tick()
            token = await sign(runtime)
            if stepper is not None:
                stepper.tell(token=token)


async def sign(runtime: Runtime) -> str:
    """A token of the key that signs now."""
    now = runtime.clock.now()
    payload = json.dumps({"iat": now, "exp": now + TTL_S}).encode()
    token, _ = await runtime.keys.sign_compact("at+jwt", payload, now=now, expires_at=now + TTL_S)
    return token


def nothing(_installation: Installation) -> None:
    """Before a first start."""


def made(*before: Act) -> Callable[[Installation], None]:
    """Keys that a server has served, and what happened to them since."""

    def prepare(installation: Installation) -> None:
        asyncio.run(_begin(installation, SystemClock()))
        stepper = Stepper(os.open(os.devnull, os.O_WRONLY), None)
        for act in before:
            with contextlib.suppress(SystemExit):
                act(installation, stepper, 0)

    return prepare


def lived(offsets: Sequence[int]) -> Callable[[Installation], None]:
    """Keys that were made at EPOCH and lived through the offsets."""

    def prepare(installation: Installation) -> None:
        asyncio.run(_live(installation, [EPOCH + offset for offset in offsets], None))

    return prepare


def with_import_file(installation: Installation) -> None:
    """Keys, and a private key in PEM that was made elsewhere."""
    made()(installation)
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (installation.directory / "imported.pem").write_bytes(pem)


def under_new_master_key(*arguments: str, own: str | None = None) -> Act:
    """The command after what an operator does first: a second line in the master key file. `own`
    is the option by which the server does it to a file of its own."""

    def act(installation: Installation, stepper: Stepper, begin: int) -> None:
        path = installation.directory / "master.key"
        if not path.exists():
            return command(*arguments, *([] if own is None else [own]))(
                installation, stepper, begin
            )
        if "\n2:" not in path.read_text():
            path.write_text(f"{path.read_text()}2:{encode_base64url(bytes(range(32, 64)))}\n")
        return command(*arguments)(installation, stepper, begin)

    return act


async def _begin(installation: Installation, clock: Clock) -> None:
    configure_logging("json", "error")
    async with open_runtime(server_settings(installation), clock=clock) as runtime:
        await KeyUpkeep(runtime).tick()
        kids = {
            state.value: key.kid
            for state in (KeyState.ACTIVE, KeyState.NEXT)
            for key in runtime.keyring.keys
            if runtime.keys.situation().state(key) is state
        }
    _kids_file(installation).write_text(json.dumps(kids))


def _kids_file(installation: Installation) -> Path:
    return installation.directory / "kids.json"


def _read_kids(installation: Installation) -> dict[str, Any]:
    path = _kids_file(installation)
    return dict(json.loads(path.read_text())) if path.exists() else {}


_DUE = ROTATE_EVERY_S - LEAD_S
# Dated, published, switched, retirement set, private half erased, retired and forgotten, while
# the next rotation falls due.
_A_LIFE = (
    _DUE,
    _DUE + 1,
    ROTATE_EVERY_S + 1,
    ROTATE_EVERY_S + 8,
    ROTATE_EVERY_S + LEAD_S + 1,
    ROTATE_EVERY_S + LEAD_S + 400,
)
_FORGOTTEN = ROTATE_EVERY_S + LEAD_S + 400 + KEEP_RETIRED_S

OPERATIONS: tuple[Operation, ...] = (
    Operation("first start", nothing, first_start, is_first_start=True),
    Operation("rotate", made(), command("keys", "rotate")),
    Operation("rotate --now", made(), command("keys", "rotate", "--now")),
    Operation("promote", made(), command("keys", "promote", "--force")),
    Operation(
        "rollback", made(command("keys", "rotate")), command("keys", "rollback"), done_codes=(0, 4)
    ),
    Operation("compromise KID (active)", made(), command("keys", "compromise", "{active}")),
    Operation("compromise KID (next)", made(), command("keys", "compromise", "{next}")),
    Operation(
        "compromise --all",
        made(),
        under_new_master_key("keys", "compromise", "--all", "--yes"),
        is_one_change=False,
        writes_database=True,
        # 4: it was done before the kill, and another one needs another mounted master key. That
        # a half-done one is completed: tests/services/test_key_emergency.py.
        done_codes=(0, 4),
    ),
    Operation(
        "rewrap",
        made(),
        under_new_master_key("keys", "rewrap", own="--new-master-key"),
        changes_records=False,
    ),
    Operation(
        "import",
        with_import_file,
        command("keys", "import", "imported.pem"),
        done_codes=(0, 4),
    ),
    Operation(
        "upkeep of a server", lived((0, 1)), upkeep(_A_LIFE), is_one_change=False, clock_at=EPOCH
    ),
    Operation(
        "upkeep: forgetting",
        lived((0, 1, *_A_LIFE)),
        upkeep((_FORGOTTEN,)),
        is_one_change=False,
        clock_at=EPOCH + _A_LIFE[-1],
    ),
)

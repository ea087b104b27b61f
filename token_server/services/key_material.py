"""Moving keys: out of a store, into another one, and in from outside.

A whole keyring moves as a bundle whose private halves stay encrypted under the master key, and
keeps its id, so that sessions and tokens go on; a private half never leaves in plain. Where a
keyring is kept is written into the database: after a move the old copy is not opened any more.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Literal

from token_server.core.key_changes import (
    Change,
    Decision,
    NewKey,
    Refused,
    Situation,
    Step,
    StepKind,
    Unchanged,
    Violation,
)
from token_server.core.key_lifecycle import published_keys
from token_server.core.key_policy import Serving
from token_server.core.key_store import KeyStore
from token_server.crypto import rsa_keys
from token_server.crypto.key_bundle import BundleError, decode_bundle, encode_bundle
from token_server.crypto.keystore import problems_error
from token_server.crypto.live_keys import Changed, Outcome
from token_server.crypto.opening import (
    key_problems,
    key_stores,
    missing_keyring,
    place_text,
    read_master_keys,
    waiting_key,
)
from token_server.crypto.rsa_keys import KeyUnusableError, PassPhraseError
from token_server.crypto.secrets import MasterKeys, load_master_keys
from token_server.errors import OperatorError
from token_server.records import AuditEvent, AuditEventType, Secret, StoredKey, StoredKeyring
from token_server.runtime import Runtime, database_keys
from token_server.services.key_changes import audit_change
from token_server.storage import audit, meta

ACTOR = "operator"
REFUSED = 4

Format = Literal["keyring", "jwks", "pem"]


@dataclass(frozen=True, slots=True)
class PublicPem:
    """One published key for verifiers that are configured by hand."""

    kid: str
    pem: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What came in or, with `dry_run`, would."""

    changed: bool
    dry_run: bool
    kind: Literal["keyring", "key"]
    keyring_id: str
    place: str
    kids: tuple[str, ...]
    reason: str | None = None  # why there was nothing to do


class PassPhraseNeededError(Exception):
    """The key is encrypted: ask for its pass phrase and try again."""


# ---- out ------------------------------------------------------------------------------------


async def export_keyring(runtime: Runtime) -> bytes:
    """The bundle, audited. OperatorError when the store cannot be read."""
    store = runtime.keys.store
    stored, serving = await store.load(), await store.last_serving()
    if stored is None:
        raise missing_keyring(runtime.settings, None)
    bundle = encode_bundle(stored, serving, runtime.master_keys)
    event = AuditEvent(
        event=AuditEventType.KEYRING_EXPORTED,
        at=runtime.clock.now(),
        actor=ACTOR,
        subject=stored.keyring_id,
        details={"generation": stored.generation},
    )
    runtime.audit.record(event)
    return bundle


def export_jwks(runtime: Runtime) -> bytes:
    """The JWK Set that servers publish now (RFC 7517 5)."""
    return runtime.keyring.jwks(runtime.clock.now())


def export_pem(runtime: Runtime) -> tuple[PublicPem, ...]:
    """The public halves of all published keys."""
    published = published_keys(runtime.keyring.keys, runtime.clock.now())
    return tuple(PublicPem(key.kid, rsa_keys.public_pem(key.n, key.e)) for key in published)


# ---- in: a whole keyring ----------------------------------------------------------------------


async def import_keyring(runtime: Runtime, content: bytes, *, dry_run: bool) -> ImportReport:
    """Put the keyring of a bundle into the store that KEY_STORE names, which must hold none, or
    only the copy that an earlier move left behind.

    The runtime is one without keys. OperatorError, exit code 4, when the store or the database
    belongs to another keyring or this one is in use there.
    """
    settings = runtime.settings
    master_keys = await asyncio.to_thread(_master_keys_for_import, runtime)
    try:
        keyring, serving = await asyncio.to_thread(decode_bundle, content, master_keys)
    except BundleError as err:
        raise OperatorError(f"the export is not taken: {err}") from None
    database = await database_keys(runtime.store)
    known = database.known_keyring_id
    if known not in (None, keyring.keyring_id):
        raise OperatorError(
            f"the database belongs to keyring {known}, the export is of {keyring.keyring_id}",
            exit_code=REFUSED,
        )
    store = key_stores(settings, runtime.entropy.token_bytes, database)(master_keys)
    present = await store.load()
    is_in_use = known is None or database.place == settings.key_store
    if present is not None and (present.keyring_id != keyring.keyring_id or is_in_use):
        raise OperatorError(
            f"{place_text(settings)} holds keyring {present.keyring_id} already", exit_code=REFUSED
        )
    if not dry_run:
        generation = 0 if present is None else present.generation
        await _put(store, replace(keyring, generation=generation + 1), serving)
        await _note_place(runtime, keyring)
    return ImportReport(
        changed=not dry_run,
        dry_run=dry_run,
        kind="keyring",
        keyring_id=keyring.keyring_id,
        place=place_text(settings),
        kids=tuple(entry.key.kid for entry in keyring.keys),
    )


def _master_keys_for_import(runtime: Runtime) -> MasterKeys:
    settings = runtime.settings
    problems = key_problems(settings)
    if problems:
        raise problems_error(problems)
    if load_master_keys(settings.master_key_file, settings.keys_dir) is None:
        raise OperatorError(
            f"{settings.master_key_file} is not there: put the master key that the export was made "
            "under there first (mode 600, in a directory of mode 700)"
        )
    return read_master_keys(settings)


async def _put(store: KeyStore, keyring: StoredKeyring, serving: Serving | None) -> None:
    if not await store.replace(keyring, keyring.generation - 1):
        raise OperatorError("the keys were changed by somebody else: try again", exit_code=5)
    if serving is not None:
        await store.record_serving(serving)


async def _note_place(runtime: Runtime, keyring: StoredKeyring) -> None:
    """From now on servers start with KEY_STORE as it is here only."""
    place = runtime.settings.key_store
    event = AuditEvent(
        event=AuditEventType.KEYRING_IMPORTED,
        at=runtime.clock.now(),
        actor=ACTOR,
        subject=keyring.keyring_id,
        details={"key_store": place, "keys": len(keyring.keys)},
    )
    async with runtime.store.write() as connection:
        await meta.set(connection, meta.KEYRING_ID, keyring.keyring_id)
        await meta.set(connection, meta.KEY_STORE, place)
        await audit.insert_events(connection, [event])
    runtime.audit.log(event)


# ---- in: one key ------------------------------------------------------------------------------


async def import_key(
    runtime: Runtime, pem: bytes, pass_phrase: Secret[str] | None, *, dry_run: bool
) -> ImportReport:
    """Add a private key that was made elsewhere as one that waits; it signs no sooner than any
    other new key (I2). PassPhraseNeededError when it is encrypted and none is given; OperatorError
    when it is not one to sign with (RSA of 2048, 3072 or 4096 bits, e = 65537)."""
    given = None if pass_phrase is None else pass_phrase.reveal().encode()
    try:
        entry = await asyncio.to_thread(_read_key, runtime, pem, given)
    except PassPhraseError as err:
        if given is None:
            raise PassPhraseNeededError from None
        raise OperatorError(f"the key is not taken: {err}") from None
    except KeyUnusableError as err:
        raise OperatorError(f"the key is not taken: {err}") from None

    def decide(situation: Situation) -> Decision:
        return _add_key(situation, entry)

    decided: Decision | Outcome
    if dry_run:
        decided = (await runtime.keys.propose(decide)).decision
    else:
        outcome = await runtime.keys.change(decide, ready=(entry,))
        audit_change(runtime, outcome, ACTOR)
        decided = outcome
    if isinstance(decided, Refused):
        raise OperatorError(decided.violations[0].why, exit_code=REFUSED)
    return ImportReport(
        changed=isinstance(decided, Changed),
        dry_run=dry_run,
        kind="key",
        keyring_id=runtime.keyring.keyring_id,
        place=place_text(runtime.settings),
        kids=(entry.key.kid,),
        reason=decided.reason if isinstance(decided, Unchanged) else None,
    )


def _read_key(runtime: Runtime, pem: bytes, given: bytes | None) -> StoredKey:
    private = rsa_keys.read_private(pem, given)
    return waiting_key(private, runtime.master_keys, runtime.clock.now())


def _add_key(situation: Situation, entry: StoredKey) -> Decision:
    kid = entry.key.kid
    present = situation.find(kid)
    if present is not None and present.compromised_at is not None:
        why = f"{kid} was dropped as compromised: it must never sign again"
        return Refused((Violation("", why),), can_be_forced=False)
    if present is not None and kid not in situation.usable:
        why = f"{kid} has signed here before and is retired: import another key"
        return Refused((Violation("", why),), can_be_forced=False)
    if present is not None:
        return Unchanged(f"{kid} is here already")
    step = Step(StepKind.IMPORTED, kid, None, "made elsewhere; it waits until it is served")
    return Change(keys=situation.keys, steps=(step,), new_keys=(NewKey(),))

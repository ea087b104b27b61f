"""What will happen to the signing keys, and when, with the reason for each date.

Reads only, and needs no database with the key directory. The dates are those of
core/key_forecast.py; here is added what a person needs to judge them: whose settings they follow,
whether a server runs at all, and what is wrong or noteworthy now.
"""

from dataclasses import dataclass

from token_server.core.key_changes import Situation, Unchanged
from token_server.core.key_forecast import Event, Life, foresee
from token_server.core.key_policy import KeyPolicy
from token_server.core.key_rotation import rotation_due_at
from token_server.crypto.live_keys import LiveKeys
from token_server.crypto.secrets import is_own_master_key
from token_server.services.keys import KeyPlace, KeyRow, keys_opened, list_keys


@dataclass(frozen=True, slots=True)
class Basis:
    """What dates follow from."""

    policy: KeyPolicy
    is_served: bool  # a server runs now
    served_at: int | None  # when one was last known to run; None: never
    source: str  # "serving" (the settings of the running server) or "command" (those given here)
    stated: tuple[str, ...]  # settings given to this command, which it plans with


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The keys, and what comes. Instants are epoch seconds."""

    now: int
    keyring_id: str
    generation: int
    keys: tuple[KeyRow, ...]
    basis: Basis
    next_kid: str | None  # the key that would sign next
    promotable_at: int | None  # from when it may (I2); None while nobody has served it
    rotation_due_at: int | None
    events: tuple[Event, ...]
    lives: tuple[Life, ...]
    notes: tuple[str, ...]


async def plan_keys(place: KeyPlace) -> KeyPlan:
    """What will happen to the existing keys. OperatorError lists every problem with its fix."""
    async with keys_opened(place) as opened:
        keys = place.live(opened)
        proposal = await keys.propose(lambda _: Unchanged("only looked at"))
        situation = proposal.situation
        forecast = foresee(situation)
        waiting = situation.waiting
        return KeyPlan(
            now=situation.now,
            keyring_id=keys.keyring.keyring_id,
            generation=keys.keyring.generation,
            keys=list_keys(keys.keyring, situation.now),
            basis=basis_of(situation, place.stated),
            next_kid=waiting[0].kid if waiting else None,
            promotable_at=situation.may_sign_from(waiting[0]) if waiting else None,
            rotation_due_at=rotation_due_at(situation),
            events=forecast.events,
            lives=forecast.lives,
            notes=_notes(place, keys, situation),
        )


def basis_of(situation: Situation, stated: frozenset[str]) -> Basis:
    """Whose settings count, and whether a server runs."""
    serving = situation.serving
    return Basis(
        policy=situation.policy,
        is_served=serving is not None and situation.served_until == situation.now,
        served_at=None if serving is None else serving.served_at,
        source="command" if serving is None else "serving",
        stated=tuple(sorted(stated)),
    )


def _notes(place: KeyPlace, keys: LiveKeys, situation: Situation) -> tuple[str, ...]:
    notes = [*_wrong(situation)]
    settings = place.settings
    versions = keys.master_keys.versions
    if len(versions) > 1:
        listed = ", ".join(str(version) for version in versions)
        notes.append(
            f"The master key has versions {listed}; new private halves are encrypted under "
            f"{keys.master_keys.current}. `token-server keys rewrap` says what the others hold."
        )
    if settings.key_store == "directory" and is_own_master_key(
        settings.master_key_file, settings.keys_dir
    ):
        notes.append(
            f"The master key lies beside the keys ({settings.master_key_file}): their encryption "
            "protects nothing. In production keep it elsewhere (MASTER_KEY_FILE)."
        )
    return tuple(notes)


def _wrong(situation: Situation) -> list[str]:
    """What an operator should look into before trusting the dates."""
    found = []
    if situation.serving is None:
        found.append(
            "No server has served these keys yet: the dates hold if one starts now and goes on."
        )
    elif situation.served_until < situation.now:
        found.append(
            "No server runs: time in which none does not count for keys that wait (I2). The dates "
            "hold if one starts now."
        )
    if not situation.waiting:
        found.append("No next key waits (I1): a server makes one as soon as it runs.")
    if situation.signing is None:
        found.append("No key signs: the clock stands before the first activation.")
    due_at = rotation_due_at(situation)
    if due_at is not None and due_at + situation.policy.lead_s < situation.now:
        found.append("The rotation is overdue: does a server run, and can it write the keys?")
    return found

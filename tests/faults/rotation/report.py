"""What a drill found, judged, and as text and JSON; `problems` is empty when everything held."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.rotation.compromise import Compromise
from tests.faults.rotation.proxy import Fetch
from tests.faults.rotation.verifiers import Account, Kind
from tests.faults.rotation.world import Ring

# The sight of an onlooker that asks ten times a second, and of instants in whole seconds.
SIGHT_S = 0.3


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation, from the command until every server had signed with the new key."""

    keyring: str
    kid: str
    command_s: float
    switched_after_s: float
    apart_s: float  # between the first signatures of the first and the last server
    at: float  # of the first signature


@dataclass(frozen=True, slots=True)
class Fetches:
    """How often one verifier fetched one keyring's key set while keys were rotated."""

    verifier: str
    keyring: str
    first: int
    polling: int  # the copy had reached its age
    beyond: int  # because of an unknown kid
    most_beyond: int  # between two switches


@dataclass(slots=True)
class Report:
    """`lead_s` and `jwks_max_age_s` are the servers' settings."""

    account: Account
    kinds: Sequence[Kind]
    jwks_max_age_s: int
    rotations: list[Rotation] = field(default_factory=list)
    compromises: list[Compromise] = field(default_factory=list)
    fetches: list[Fetches] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)  # log events of the servers
    problems: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def verified(self) -> int:
        return sum(self.account.verified.values())

    def note_logs(self, rings: Sequence[Ring]) -> None:
        """Count what the servers warned of; where something failed, that says why."""
        for ring in rings:
            for server in ring.servers:
                for record in server.log_records():
                    if record["level"] not in ("debug", "info"):
                        told = record.get("reason") or record.get("problem") or ""
                        self.warned[f"{record['event']} {told}".strip()] += 1

    def judge(self, rings: Sequence[Ring]) -> None:
        """Turn everything that should not be into problems."""
        refused = Counter(
            (each.verifier, each.keyring, each.kid, each.reason) for each in self.account.refusals
        )
        for (verifier, keyring, kid, reason), count in refused.items():
            told = f"{verifier} refused {count} tokens of {keyring}'s {kid}: {reason}"
            self.problems.append(told)
        for fetches in self.fetches:
            if fetches.most_beyond > 1:
                self.problems.append(f"more than one fetch for a rotation: {fetches}")
        for one in self.compromises:
            if one.alive < one.sessions:
                self.problems.append(f"sessions did not survive: {one}")
        for ring in rings:
            self.problems += ring.problems
            self._judge_keys(ring)

    def _judge_keys(self, ring: Ring) -> None:
        first = min(
            (key.signed_first[0], kid) for kid, key in ring.keys.items() if 0 in key.signed_first
        )[1]
        for kid, key in ring.keys.items():
            served_s, kept_s = ring.served_before_s(kid), ring.kept_after_s(kid)
            # Of the very first key nobody can have had an older copy.
            least_s = 2 * self.jwks_max_age_s - SIGHT_S
            if kid != first and served_s is not None and served_s < least_s:
                self.problems.append(f"{kid} signed {served_s:.1f} s after it was served (I2)")
            if key.compromised_at is None and kept_s is not None and kept_s < -SIGHT_S:
                self.problems.append(f"{kid} left {-kept_s:.1f} s before its last token (I4)")

    def as_json(self, rings: Sequence[Ring]) -> dict[str, Any]:
        account = self.account
        return {
            "duration_s": round(self.duration_s, 1),
            "verified": self.verified,
            "false_refusals": len(account.refusals),
            "verifiers": [
                {
                    "verifier": kind.name,
                    "polls_every_s": kind.polls_every_s,
                    "verified": account.verified[kind.name],
                    "verified_again_when_old": account.old[kind.name],
                    "rightly_refused": account.rightly_refused[kind.name],
                    "accepted_compromised_for_s": round(
                        account.accepted_for_s.get(kind.name, 0.0), 1
                    ),
                }
                for kind in self.kinds
            ],
            "too_late": account.too_late,
            "answered": dict(self.answered),
            "warned": dict(self.warned),
            "fetches": [asdict(fetches) for fetches in self.fetches],
            "rotations": [asdict(rotation) for rotation in self.rotations],
            "keys": [_describe(ring, kid) for ring in rings for kid in ring.keys],
            "compromises": [
                {**asdict(one), "held_s": one.held_s, "from_store_to_all_s": one.spread_s}
                for one in self.compromises
            ],
            "refusals": [asdict(refusal) for refusal in account.refusals[:50]],
            "problems": self.problems,
        }

    def text(self, rings: Sequence[Ring]) -> str:
        account = self.account
        opening = (
            f"{len(self.rotations)} rotations, {len(self.compromises)} compromises, "
            f"{self.verified} verifications in {self.duration_s:.0f} s; "
            f"{len(account.refusals)} false refusals, {account.too_late} tokens too late for the "
            f"drill; answers: {_counts(self.answered)}"
        )
        lines = [
            opening,
            "",
            _row("VERIFIER", "VERIFIED", "OF THEM OLD", "POLLS", "BAD KEY ACCEPTED FOR"),
        ]
        lines += [
            _row(
                kind.name,
                account.verified[kind.name],
                account.old[kind.name],
                f"{kind.polls_every_s:g} s",
                f"{account.accepted_for_s.get(kind.name, 0.0):.1f} s",
            )
            for kind in self.kinds
        ]
        lines += ["", _row("FETCHES OF", "AT START", "POLLING", "BEYOND", "MOST FOR A ROTATION")]
        lines += [
            _row(
                f"{each.verifier}, {each.keyring}",
                *(each.first, each.polling, each.beyond, each.most_beyond),
            )
            for each in self.fetches
        ]
        lines += [
            "",
            _row("ROTATIONS OF", "COUNT", "COMMAND", "SERVERS APART", "KEY SERVED BEFORE"),
        ]
        lines += [self._rotations_of(ring) for ring in rings]
        if self.compromises:
            titles = ("COMMAND", "STORED", "GONE", "NEW ONE SIGNS", "STORE TO ALL", "ALIVE")
            lines += ["", _row("COMPROMISE AT", *titles)]
        lines += [_compromise_line(one) for one in self.compromises]
        lines += ["", f"Warnings in the servers' logs: {_counts(self.warned) or 'none'}"]
        return "\n".join(lines)

    def _rotations_of(self, ring: Ring) -> str:
        own = [one for one in self.rotations if one.keyring == ring.name]
        if not own:
            return _row(ring.name, 0)
        served = [ring.served_before_s(one.kid) or 0.0 for one in own]
        return _row(
            ring.name,
            len(own),
            f"{max(one.command_s for one in own):.2f} s",
            f"{max(one.apart_s for one in own):.2f} s",
            f"{min(served):.1f} s",
        )


def count_fetches(
    kind: Kind, keyring: str, fetches: Sequence[Fetch], switches: Sequence[float]
) -> Fetches:
    """Tell polling from the rest: a copy that had reached its age would have been fetched
    anyway. `switches` are the first signatures of new keys, in order."""
    own = [each.at for each in fetches if (each.verifier, each.keyring) == (kind.name, keyring)]
    beyond = [
        at for before, at in itertools.pairwise(own) if at - before < kind.polls_every_s * 0.99
    ]
    between = Counter(sum(switch <= at for switch in switches) for at in beyond)
    return Fetches(
        verifier=kind.name,
        keyring=keyring,
        first=len(own[:1]),
        polling=len(own) - len(beyond) - len(own[:1]),
        beyond=len(beyond),
        most_beyond=max(between.values(), default=0),
    )


def _describe(ring: Ring, kid: str) -> dict[str, Any]:
    served_s, kept_s = ring.served_before_s(kid), ring.kept_after_s(kid)
    return {
        "keyring": ring.name,
        "kid": kid,
        "compromised": ring.keys[kid].compromised_at is not None,
        "served_before_first_token_s": None if served_s is None else round(served_s, 2),
        "left_after_last_expiry_s": None if kept_s is None else round(kept_s, 2),
    }


def _compromise_line(one: Compromise) -> str:
    return _row(
        one.keyring,
        f"{one.command_s:.2f} s",
        f"{one.stored_s:.2f} s",
        " ".join(f"{each:.2f}" for each in one.gone_s) + " s",
        " ".join(f"{each:.2f}" for each in one.signs_s) + " s",
        f"{one.spread_s:.2f} s",
        f"{one.alive} of {one.sessions}",
    )


def _row(*cells: object) -> str:
    first, *rest = [str(cell) for cell in cells]
    return "  ".join([f"{first:<22}", *(f"{cell:>16}" for cell in rest)])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))

"""The times that govern signing keys, and what a serving process tells about itself.

All follow from what verifiers are promised: how long they may cache the JWKS, how soon every
instance has a change, how far clocks may differ. A process that serves keys writes its own policy
down (`Serving`), so that a command run beside it with other settings plans with the true one.
"""

from dataclasses import dataclass

MAX_ROLLBACK_WINDOW_S = 86400
MAX_HEARTBEAT_S = 60
# Records of retired keys are kept so long: people ask which key signed an old token.
KEEP_RETIRED_S = 30 * 86400
# No token lives longer, whatever a client or a setting says: what is assumed of tokens that were
# signed before high-water marks were kept.
LONGEST_TOKEN_S = 86400


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Durations in seconds, as the settings of the same names state them."""

    lead_s: int  # KEY_LEAD: served for so long before it signs
    rotate_every_s: int
    jwks_max_age_s: int
    reload_interval_s: int
    clock_skew_s: int
    access_token_ttl_s: int

    @property
    def settle_s(self) -> int:
        """After so long every instance acts on a change, however its clock differs."""
        return self.reload_interval_s + self.clock_skew_s

    @property
    def least_lead_s(self) -> int:
        """The shortest lead with which no verifier that honours our caching meets a new key."""
        return 2 * self.jwks_max_age_s + self.settle_s

    @property
    def rollback_window_s(self) -> int:
        """A replaced key keeps its private half for so long, and stays published."""
        return min(self.lead_s, MAX_ROLLBACK_WINDOW_S)

    @property
    def max_age_s(self) -> int:
        """Keys that were not confirmed for so long are not signed with any more (I3)."""
        return max(1, self.lead_s // 2)

    @property
    def head_room_s(self) -> int:
        """How far beyond a token's `exp` the high-water mark is raised: one write each such time,
        and as long as a store that refuses writes stops nobody."""
        return self.max_age_s

    @property
    def heartbeat_s(self) -> int:
        """How often a serving process writes down that it serves."""
        return max(self.reload_interval_s, min(MAX_HEARTBEAT_S, self.lead_s // 60))


@dataclass(frozen=True, slots=True)
class Serving:
    """The newest word of a process that serves the keyring."""

    served_at: int
    policy: KeyPolicy

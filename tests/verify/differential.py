"""Two judges of the same tokens: ours, and jose in a real Node.js."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import run_node
from tests.verify import forge
from tests.verify.key_servers import key_set
from tests.verify.mutations import mutated_tokens
from token_server.verify import TokenError

BATCH = 2000


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What came out. `lenient` are the tokens that jose refuses and we accept: none, we hope."""

    tokens: int
    both_accept: int
    only_jose_accepts: int
    lenient: tuple[tuple[str, str], ...]  # the token and jose's code
    ours: Counter[str]
    joses: Counter[str]


def compare(node_project: Path, count: int, seed: int) -> Verdicts:
    """Judge `count` mutated tokens twice. Any exception other than ours comes out of here."""
    verifier = forge.verifier()
    ours: Counter[str] = Counter()
    joses: Counter[str] = Counter()
    lenient: list[tuple[str, str]] = []
    both_accept = only_jose = 0
    tokens = list(mutated_tokens(count, seed))
    for start in range(0, count, BATCH):
        batch = tokens[start : start + BATCH]
        for token, refused in zip(batch, _ask_jose(node_project, batch), strict=True):
            try:
                verifier.verify_sync(token)
            except TokenError as error:
                ours[error.reason] += 1
                only_jose += refused is None
            else:
                both_accept += refused is None
                if refused is not None:
                    lenient.append((token, refused))
            if refused is not None:
                joses[refused] += 1
    return Verdicts(count, both_accept, only_jose, tuple(lenient), ours, joses)


def _ask_jose(node_project: Path, tokens: list[str]) -> list[str | None]:
    question = {
        "jwks": json.loads(key_set("good")),
        "issuer": forge.ISSUER,
        "audience": forge.AUDIENCE,
        "now": forge.NOW,
        "tokens": tokens,
    }
    printed = run_node(node_project, ("node", "judge.mjs"), stdin=json.dumps(question))
    answer: list[str | None] = json.loads(printed)
    return answer

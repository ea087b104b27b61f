"""A sample of `scripts/differential`: whatever npm `jose` refuses, we refuse."""

from pathlib import Path

import pytest

from tests.support.node import MISSING, has_node, install_node_project
from tests.verify.differential import compare
from tests.verify.mutations import mutated_tokens


def test_what_jose_refuses_we_refuse(tmp_path: Path) -> None:
    """600 mutated tokens, most of them signed by the trusted key; both judges say yes and no."""
    if not has_node():
        pytest.skip(MISSING)
    verdicts = compare(install_node_project(tmp_path), 600, seed=1)

    assert verdicts.lenient == ()
    assert verdicts.both_accept >= 1
    assert sum(verdicts.joses.values()) > 300
    assert len(verdicts.ours) > 10


def test_mutations_are_repeatable_and_different() -> None:
    """A seed names a run; without variety the comparison would prove nothing."""
    first, again, other = (list(mutated_tokens(200, seed)) for seed in (1, 1, 2))

    assert first == again != other
    assert len(set(first)) > 100

"""All targets by name."""

from tests.fuzzing import operator_targets, server_targets, verify_targets
from tests.fuzzing.target import Target

TARGETS: dict[str, Target] = {
    **verify_targets.TARGETS,
    **server_targets.TARGETS,
    **operator_targets.TARGETS,
}

"""All targets by name."""

from tests.fuzzing import operator_targets, server_targets, verify_targets
from tests.fuzzing.http1_target import HTTP1
from tests.fuzzing.target import Target

TARGETS: dict[str, Target] = {
    **verify_targets.TARGETS,
    **server_targets.TARGETS,
    "http1": HTTP1,
    **operator_targets.TARGETS,
}

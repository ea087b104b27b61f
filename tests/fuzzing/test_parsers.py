"""Any bytes for every reader of strangers' bytes; in full by `scripts/fuzz`, with coverage."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing.targets import TARGETS

# What parsers stumble over, put into what they take.
HOSTILE = (
    *(b"\0", b"\r\n", b"%", b"%zz", b"%00", b"%ff", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xae"),
    *(
        b"=",
        b"&",
        b";",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\ud800",
        b"[" * 300,
        b'{"a":' * 300,
        b"9" * 500,
    ),
    *(
        b"' OR 1=1 --",
        b"../../x",
        b"NaN",
        b"1e400",
        b"-0",
        b"\xc2\xa0",
        b"\xef\xbb\xbf",
        b"a" * 3000,
    ),
)


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with up to four pieces cut out, doubled or replaced."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 6)))
        piece = draw(st.sampled_from(HOSTILE) | st.binary(max_size=4) | st.just(data[begin:] * 2))
        data[begin:end] = piece
    return bytes(data[:8192])


@pytest.mark.parametrize("name", TARGETS)
def test_reader_refuses_or_keeps_its_promise(name: str) -> None:
    """No foreign exception, and what is taken is what it seems (D76 to D78, D84, D85; F118)."""
    target = TARGETS[name]
    for seed in target.seeds:
        target.read(seed)

    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=200), *(damaged(seed) for seed in target.seeds)))
    def read(data: bytes) -> None:
        target.read(data)

    read()

"""Knows secrets and outputs, and searches all of these for all of those.

What is searched for is the first 8 bytes of each fragment, as a number: every window of an output
is looked up in one set, and only a window that is there is looked at closely. 10 MB take a second.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.leaks.spellings import LEAST_VARIED, SHORTEST, fragments, spellings

_WINDOW = 8
_KEY = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Leak:
    """Never the secret itself: the report of a test run is an output, too."""

    where: str
    kind: str
    encoding: str

    def __str__(self) -> str:
        return f"{self.where} holds a secret: {self.kind}, {self.encoding}"


@dataclass(slots=True)
class _Followed:
    """A file that processes write to, and how much of it has been read."""

    path: Path
    read_bytes: int = 0


@dataclass(slots=True)
class Watch:
    """`learn` and `hear` may come in any order: `look` searches what is new, `look_back` all. Each
    leak is told once."""

    secrets: dict[bytes, str] = field(default_factory=dict)  # to its kind
    heard_bytes: int = 0
    _is_learning: bool = True
    _fresh: list[bytes] = field(default_factory=list)
    _wanted: dict[int, tuple[bytes, ...]] = field(default_factory=dict)  # begin of a fragment
    _unread: list[tuple[str, bytes]] = field(default_factory=list)
    _known: set[int] = field(default_factory=set)  # hashes of outputs: documents come often
    _files: list[_Followed] = field(default_factory=list)
    _reported: set[Leak] = field(default_factory=set)
    _kept: list[tuple[str, bytes]] = field(default_factory=list)  # compressed: logs repeat

    @contextlib.contextmanager
    def not_learning(self) -> Iterator[None]:
        """For a test that sends what is no secret in the places of secrets."""
        self._is_learning = False
        try:
            yield
        finally:
            self._is_learning = True

    def learn(self, kind: str, secret: str | bytes) -> None:
        """Short ones are not taken, nor those made of zeros: they are said by chance."""
        if not self._is_learning:
            return
        raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
        is_secret = len(raw) >= SHORTEST and len(set(raw)) >= LEAST_VARIED
        if is_secret and raw not in self.secrets:
            self.secrets[raw] = kind
            self._fresh.append(raw)

    def hear(self, where: str, output: str | bytes) -> None:
        """Something was said."""
        raw = output.encode("utf-8", "surrogatepass") if isinstance(output, str) else bytes(output)
        if len(raw) >= _WINDOW and (known := hash(raw)) not in self._known:
            self._known.add(known)
            self._unread.append((where, raw))

    def follow(self, path: Path) -> None:
        """All that is written to this file from its beginning on is an output."""
        if all(file.path != path for file in self._files):
            self._files.append(_Followed(path))

    def read_files(self) -> None:
        """What was written since the last time; before a file may go away."""
        for file in self._files:
            try:
                with file.path.open("rb") as opened:
                    opened.seek(file.read_bytes)
                    written = opened.read()
            except OSError:
                continue
            file.read_bytes += len(written)
            if written:
                self.hear(file.path.name, written)

    def forget_files(self) -> None:
        """The test that wrote them is over."""
        self._files.clear()

    def look(self) -> set[Leak]:
        """What was said since the last look, for every secret that is known by now."""
        self.read_files()
        self._want_fresh()
        unread, self._unread = self._unread, []
        leaks: set[Leak] = set()
        for where, output in unread:
            leaks |= self._search(where, output)
            self._keep(where, output)
        self._reported |= leaks
        return leaks

    def look_back(self) -> set[Leak]:
        """Everything that was ever said, for every secret that was ever known."""
        told = set(self._reported)
        leaks = self.look()
        for where, packed in self._kept:
            leaks |= self._search(where, zlib.decompress(packed))
        return leaks - told

    def _want_fresh(self) -> None:
        for secret in self._fresh:
            for _, fragment in self._fragments(secret):
                (begin,) = _KEY.unpack_from(fragment)
                others = self._wanted.get(begin, ())
                if secret not in others:
                    self._wanted[begin] = (*others, secret)
        self._fresh.clear()

    def _fragments(self, secret: bytes) -> Iterator[tuple[str, bytes]]:
        """With the name of the encoding."""
        # Signing and master keys are few, and every part of one is worth something.
        is_dense = self.secrets[secret].endswith(" key")
        seen: set[bytes] = set()
        for encoding, text in spellings(secret):
            if text not in seen:  # most secrets are the same in several
                seen.add(text)
                for fragment in fragments(text, is_dense=is_dense):
                    yield encoding, fragment

    def _search(self, where: str, output: bytes) -> set[Leak]:
        view = memoryview(output)
        found: set[int] = set()
        for shift in range(_WINDOW):
            whole = (len(output) - shift) // _WINDOW * _WINDOW
            if whole > 0:
                found |= self._wanted.keys() & view[shift : shift + whole].cast("Q")
        suspects = {secret for begin in found for secret in self._wanted[begin]}
        return {
            Leak(where, self.secrets[secret], encoding)
            for secret in suspects
            for encoding, fragment in self._fragments(secret)
            if fragment in output
        }

    def _keep(self, where: str, output: bytes) -> None:
        self._kept.append((where, zlib.compress(output, 1)))
        self.heard_bytes += len(output)

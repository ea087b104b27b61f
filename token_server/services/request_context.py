"""Who asks, from where, when: what services need to know of a request without knowing HTTP."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`now` is read once a request, so that every decision in it sees the same instant."""

    now: int
    request_id: str
    ip_address: str | None = None
    user_agent: str | None = None

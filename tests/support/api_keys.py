"""API keys for tests: made by the service as their owner would, and presented as a program does."""

from tests.support.guessing import HERE, context
from token_server.errors import UnavailableError
from token_server.records import ApiKey, AuditEvent, AuditEventType, Secret, User
from token_server.runtime import Runtime
from token_server.services.api_keys import ApiKeyPrincipal, authenticate_api_key
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.own_api_keys import NewApiKey, create_api_key
from token_server.services.users import NewUser, add_user
from token_server.storage import audit

EMAIL = "ada@example.org"
SCOPES = ("orders:read", "orders:write")


async def add_owner(runtime: Runtime, email: str = EMAIL) -> User:
    """A user, of an account client whose logins and keys may have SCOPES."""
    await change_client(runtime, "account", ClientChanges(scopes=SCOPES))
    return await add_user(runtime, NewUser(email, "Ada", Secret("correct horse battery staple")))


async def make_key(
    runtime: Runtime, user: User, scope: tuple[str, ...] = SCOPES, expires_at: int | None = None
) -> tuple[ApiKey, str]:
    new = NewApiKey("Nightly export", scope, expires_at)
    key, secret = await create_api_key(runtime, user, new, context(runtime))
    return key, secret.reveal()


async def present(runtime: Runtime, text: str, ip_address: str = HERE) -> ApiKeyPrincipal | str:
    """Who calls, `refused`, or for how long to wait."""
    try:
        found = await authenticate_api_key(runtime, text, context(runtime, ip_address))
    except UnavailableError as error:
        if not error.is_throttled:
            raise
        return f"wait {error.retry_after_s}"
    return "refused" if found is None else found


async def is_good(runtime: Runtime, text: str) -> bool:
    return isinstance(await present(runtime, text), ApiKeyPrincipal)


async def events(runtime: Runtime, *kinds: AuditEventType) -> list[AuditEvent]:
    async with runtime.store.read() as connection:
        stored = await audit.list_events(connection, 0, 1000)
    return [each.event for each in stored if each.event.event in kinds]

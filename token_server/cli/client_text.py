"""A client as JSON for programs and as lines for people; never a secret but one just made."""

from token_server.cli.formats import instant_text
from token_server.config_values import format_duration
from token_server.records import Client, ClientSecret, Secret

_KEEP_IT = "Keep the secret now: it is not stored and cannot be shown again."


def client_json(shown: Client) -> dict[str, object]:
    """What `--json` prints of a client; null is the server's setting, instants epoch seconds."""
    return {
        "client_id": shown.client_id,
        "name": shown.name,
        "is_public": shown.is_public,
        "is_enabled": shown.is_enabled,
        "grant_types": sorted(shown.grant_types),
        "scopes": shown.scopes,
        "audiences": shown.audiences,
        "default_audience": shown.default_audience,
        "serves_audiences": shown.serves_audiences,
        "exchange_audiences": shown.exchange_audiences,
        "is_revocable": shown.is_revocable,
        "access_token_ttl_s": shown.access_token_ttl_s,
        "access_token_typ": shown.access_token_typ,
        "refresh_idle_ttl_s": shown.refresh_idle_ttl_s,
        "refresh_absolute_ttl_s": shown.refresh_absolute_ttl_s,
        "refresh_replay_window_s": shown.refresh_replay_window_s,
        "shadow_limit": shown.shadow_limit,
        "created_at": shown.created_at,
        "updated_at": shown.updated_at,
        "secrets": [secret_json(secret) for secret in shown.secrets],
    }


def secret_json(secret: ClientSecret) -> dict[str, object]:
    return {
        "secret_id": secret.secret_id,
        "label": secret.label,
        "created_at": secret.created_at,
        "expires_at": secret.expires_at,
        "last_used_at": secret.last_used_at,
    }


def client_text(shown: Client) -> str:
    lines = [
        ("client id", shown.client_id),
        ("name", shown.name),
        ("type", "public" if shown.is_public else "confidential"),
        ("enabled", "yes" if shown.is_enabled else "no (disabled)"),
        ("grants", " ".join(sorted(shown.grant_types))),
        ("scopes", " ".join(shown.scopes) or "none"),
        ("audiences", " ".join(shown.audiences) or "none"),
        ("default audience", " ".join(shown.default_audience) or "DEFAULT_AUDIENCE"),
        ("serves", " ".join(shown.serves_audiences) or "none"),
        ("exchanges for", " ".join(shown.exchange_audiences) or "none"),
        ("revocable", "yes" if shown.is_revocable else "no"),
        ("access tokens", _duration_text(shown.access_token_ttl_s)),
        ("access token typ", shown.access_token_typ or "as the server"),
        ("idle lifetime", _duration_text(shown.refresh_idle_ttl_s)),
        ("absolute lifetime", _duration_text(shown.refresh_absolute_ttl_s)),
        ("replay window", _duration_text(shown.refresh_replay_window_s)),
        ("shadow limit", "off" if shown.shadow_limit is None else str(shown.shadow_limit)),
        ("created", instant_text(shown.created_at)),
    ]
    lines += [("secret", _secret_line(secret)) for secret in shown.secrets]
    return "\n".join(f"{name:<17} {value}" for name, value in lines)


def _secret_line(secret: ClientSecret) -> str:
    end = "" if secret.expires_at is None else f", ends {instant_text(secret.expires_at)}"
    made, used = instant_text(secret.created_at), instant_text(secret.last_used_at)
    return f"{secret.secret_id} ({secret.label}), made {made}, last used {used}{end}"


def added_text(made: Client, secret: Secret[str] | None) -> str:
    if secret is None:
        return client_text(made)
    return f"{client_text(made)}\n\nclient secret     {secret.reveal()}\n{_KEEP_IT}"


def secret_text(client_id: str, record: ClientSecret, secret: Secret[str]) -> str:
    return (
        f"client id         {client_id}\nsecret            {_secret_line(record)}\n\n"
        f"client secret     {secret.reveal()}\n{_KEEP_IT}"
    )


def _duration_text(seconds: int | None) -> str:
    return "as the server" if seconds is None else format_duration(seconds)


def clients_table(found: list[Client], limit: int) -> str:
    if not found:
        return "No clients."
    lines = [
        f"{each.client_id}  {'public' if each.is_public else 'confidential'}"
        f"  {'enabled' if each.is_enabled else 'disabled'}  {' '.join(sorted(each.grant_types))}"
        for each in found
    ]
    if len(found) == limit:
        lines.append(f"There may be more: --after {found[-1].client_id}")
    return "\n".join(lines)

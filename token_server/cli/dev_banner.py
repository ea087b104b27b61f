"""What `token-server dev` prints when it is ready: for people, or one line of JSON.

The curl lines work when they are pasted into the next terminal. The JSON line names the file
with the demo secrets but not the secrets: what is no terminal is often a log.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from token_server.config import Settings
from token_server.config_loading import DEFAULT_DATABASE_URL
from token_server.config_values import hide_password
from token_server.services.demo import Demo
from token_server.services.installation import package_version
from token_server.services.metadata import JWKS_PATH
from token_server.web.docs_ui import DOCS_PATH
from token_server.web.openapi import OPENAPI_PATH


@dataclass(frozen=True, slots=True)
class DevServer:
    """All that is worth saying of a running dev server."""

    settings: Settings
    management_address: str
    kid: str
    demo: Demo
    demo_file: Path


def summary(server: DevServer) -> str:
    """One line of JSON for programs."""
    issuer, demo = server.settings.issuer, server.demo
    facts = {
        "event": "ready",
        "issuer": issuer,
        "token_endpoint": f"{issuer}/oauth2/token",
        "jwks_uri": f"{issuer}{JWKS_PATH}",
        "docs": f"{issuer}{DOCS_PATH}",
        "management": f"http://{server.management_address}",
        "database": hide_password(server.settings.database_url.reveal()),
        "kid": server.kid,
        "user": demo.user_email,
        "clients": [demo.public_client_id, demo.service_client_id],
        "demo_file": str(server.demo_file),
        "version": package_version(),
    }
    return msgspec.json.encode(facts).decode("utf-8")


def banner(server: DevServer) -> str:
    """The tree of URLs, what was made, and how to get a first token."""
    issuer, demo = server.settings.issuer, server.demo
    return f"""
Token Server {package_version()} is ready (development: demo accounts, plain HTTP)

{issuer}
├── POST /oauth2/token                            get and refresh tokens
├── POST /api/auth/register  login  refresh ...   people: accounts and sessions
├── GET  {JWKS_PATH}                   public keys, for whoever verifies
├── GET  /.well-known/oauth-authorization-server  where everything is
├── GET  /.well-known/openid-configuration        the same, for other libraries
├── GET  {OPENAPI_PATH}                            this interface, described for programs
├── GET  {DOCS_PATH}                                    the same, to read and to try (dev only)
└── GET  /livez  /readyz
http://{server.management_address}  (management)
├── GET  /readyz?verbose                          every check
└── GET  /metrics                                 for Prometheus

Database      {hide_password(server.settings.database_url.reveal())}
Signing key   {server.kid} (RS256)
Demo user     {demo.user_email}  password {demo.user_password}
Demo clients  {demo.public_client_id} (public: password, refresh_token)
              {demo.service_client_id} (client_credentials)  secret {demo.service_client_secret}
              all of it in {server.demo_file}

{_commands(server)}

Ctrl-C stops the server.
"""


def _commands(server: DevServer) -> str:
    demo = server.demo
    token_url = shlex.quote(f"{server.settings.issuer}/oauth2/token")
    basic = shlex.quote(f"{demo.service_client_id}:{demo.service_client_secret}")
    password = shlex.quote(f"password={demo.user_password}")
    return f"""A token for a service:
  curl -s -u {basic} -d grant_type=client_credentials {token_url}

Tokens for the user, and a refresh:
  REFRESH_TOKEN=$(curl -s -d grant_type=password -d client_id={demo.public_client_id} \\
    --data-urlencode username={demo.user_email} --data-urlencode {password} \\
    {token_url} | tee /dev/stderr | sed -n 's/.*"refresh_token":"\\([^"]*\\)".*/\\1/p')
  curl -s -d grant_type=refresh_token -d client_id={demo.public_client_id} \\
    -d refresh_token="$REFRESH_TOKEN" {token_url}

What a service needs to verify them:
  curl -s {shlex.quote(server.settings.issuer + JWKS_PATH)}

See the signing keys rotate (README, "Rotate keys"): what comes, and a rotation that begins now:
  {_program(server.settings)} keys plan
  {_program(server.settings)} keys rotate"""


def _program(settings: Settings) -> str:
    """This program on these keys and this database, for the next terminal."""
    words = [sys.argv[0]]
    if Path(sys.argv[0]).name != "token-server":
        words = [sys.executable, "-m", "token_server"]
    if settings.keys_dir != Path("keys"):
        words += ["--keys-dir", str(settings.keys_dir)]
    database_url = settings.database_url.reveal()
    if database_url.startswith("sqlite:") and database_url != DEFAULT_DATABASE_URL:
        words += ["--database-url", database_url]
    return shlex.join(words)

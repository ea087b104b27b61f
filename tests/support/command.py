"""The command line on a test database, as a script would call it: no terminal, results as JSON."""

import json
from typing import Any

from click.testing import CliRunner, Result

from token_server.cli.main import cli


class Command:
    """Runs `token-server` on one database; without a terminal, as a script would."""

    def __init__(self, database_url: str) -> None:
        self._environ = {
            "TOKEN_SERVER_DATABASE_URL": database_url,
            "TOKEN_SERVER_ARGON2_MEMORY_KIB": "8",
            "TOKEN_SERVER_ARGON2_TIME_COST": "1",
        }

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin, env=self._environ)

    def json(self, *arguments: str, stdin: str = "") -> Any:
        result = self(*arguments, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

"""The frame of the command line: help, exit codes, secrets from outside, a missing extra."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.support.command import Command
from token_server import __main__ as entry
from token_server.cli.context import read_secret
from token_server.cli.main import COMMANDS, cli
from token_server.errors import OperatorError, UnavailableError

ROOT = Path(__file__).resolve().parents[2]
BUSY = "The database is busy: another process holds its lock. Try again."
HEAVY = ("sqlalchemy", "litestar", "uvicorn", "cryptography", "argon2", "alembic")


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def test_help_loads_nothing_heavy() -> None:
    """A stranger's first command must not wait for SQLAlchemy and a web framework."""
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom token_server.cli.main import cli\n"
        "result = CliRunner().invoke(cli, ['--help'])\nassert result.exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    assert run_python(code) == "[]\n"


def test_python_m_token_server_is_the_command() -> None:
    """`python -m token_server` works where the script is not on the path."""
    done = subprocess.run(
        [sys.executable, "-m", "token_server", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    assert done.stdout.startswith("Usage: token-server ")
    assert "Exit codes: 0 ok" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists_and_explains_itself(name: str) -> None:
    """The table that --help shows and the modules agree, down to the nouns' verbs."""
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    nested = list(command.commands.values()) if isinstance(command, click.Group) else []

    for each in (command, *nested):
        assert each.help, each.name


def test_an_unknown_command_is_a_usage_error() -> None:
    """Exit code 2, and the way to the help."""
    result = CliRunner().invoke(cli, ["usr"])

    assert result.exit_code == 2
    assert "No such command 'usr'" in result.output


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OperatorError("Mend it."), 1, "Error: Mend it.\n"),
        (OperatorError("Not there.", exit_code=3), 3, "Error: Not there.\n"),
        (UnavailableError("storage_busy"), 5, f"Error: {BUSY} (reason: storage_busy)\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    """What a person can mend has no traceback; docs/cli.md has the codes."""

    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(type(cli), "get_command", lambda *_: fail)
    result = CliRunner().invoke(cli, ["fail"])

    assert (result.exit_code, result.stderr, result.stdout) == (code, message, "")


def test_an_unreachable_database_is_exit_code_5() -> None:
    """So that a script can tell "try again" from "wrong"."""
    result = Command("postgresql://app:hunter2@127.0.0.1:1/tokens")("user", "list")

    assert result.exit_code == 5
    assert "The database cannot be reached" in result.stderr
    assert "hunter2" not in result.output


def test_bad_settings_are_exit_code_2() -> None:
    """Every command reads its settings the same way."""
    result = CliRunner().invoke(cli, ["user", "list"], env={"TOKEN_SERVER_WORKERS": "x"})

    assert result.exit_code == 2
    assert "TOKEN_SERVER_WORKERS" in result.stderr


def ask(*, from_stdin: bool, stdin: str | bytes) -> tuple[int, str]:
    @click.command()
    def command() -> None:
        try:
            click.echo(read_secret("Password", from_stdin=from_stdin, confirm=True).reveal())
        except OperatorError as error:
            click.echo(error.message)
            raise SystemExit(error.exit_code) from error

    result = CliRunner().invoke(command, input=stdin)
    return result.exit_code, result.stdout


@pytest.mark.parametrize("stdin", ["s3cret", "s3cret\n", "s3cret\r\n", "s3cret\nanother\n"])
def test_a_secret_is_one_line_of_stdin(stdin: str) -> None:
    """As `printf`, an editor or Windows ends it."""
    assert ask(from_stdin=True, stdin=stdin) == (0, "s3cret\n")


def test_inner_spaces_of_a_secret_are_kept() -> None:
    """A pass phrase is what it is, spaces at its ends included."""
    assert ask(from_stdin=True, stdin="  a b \n") == (0, "  a b \n")


@pytest.mark.parametrize("stdin", [b"", b"\n", b"\xff\n", b"x" * 20_000])
def test_an_unusable_secret_is_refused_without_an_echo(stdin: bytes) -> None:
    """Empty, no UTF-8, far too long."""
    code, output = ask(from_stdin=True, stdin=stdin)

    assert code == 2
    assert "tandard input" in output
    assert "xxx" not in output


def test_a_prompt_asks_twice_and_shows_nothing() -> None:
    """The prompt goes to stderr, so that stdout stays a result."""
    assert ask(from_stdin=False, stdin="s3cret\ns3cret\n") == (0, "s3cret\n")


def test_without_a_terminal_a_prompt_says_what_to_do() -> None:
    """cron and CI have no terminal: an echoing prompt, or a hang, would be worse."""
    code = (
        "from token_server.cli.context import read_secret\n"
        "from token_server.errors import OperatorError\n"
        "try:\n    read_secret('Password', from_stdin=False)\n"
        "except OperatorError as error:\n    print(error.exit_code, error.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="s3cret\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        start_new_session=True,
    )

    assert done.stdout.startswith("2 There is no terminal to ask on")


def test_without_the_server_extra_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base installation is for verifying; the command names what to install."""
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name == "click" else object())

    with pytest.raises(SystemExit) as caught:
        entry.main()

    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "The server is not installed here (missing: click). "
        'Run: pip install "token-server[server]"\n'
    )


def test_the_entry_point_imports_only_the_standard_library() -> None:
    """Else the line above could never be printed where it is needed."""
    code = (
        "import sys\nbefore = set(sys.modules)\nimport token_server.__main__\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )

    assert run_python(code) == "['token_server']\n"

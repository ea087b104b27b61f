"""Where settings come from, what is allowed, and that every problem is shown at once."""

from pathlib import Path

import pytest

from token_server.config import SETTINGS, Mode, Settings
from token_server.config_loading import Loaded, Reading, cpu_limits, load_settings, read_settings
from token_server.config_values import hide_password, show_value
from token_server.errors import OperatorError

SECRET_URL = "postgresql://app:hunter2@db.example/tokens"


def load(mode: Mode = "tool", **environ: str) -> Loaded:
    return load_settings(mode, {}, variables(**environ))


def read(mode: Mode = "tool", **environ: str) -> Reading:
    return read_settings(mode, {}, variables(**environ))


def variables(**environ: str) -> dict[str, str]:
    return {f"TOKEN_SERVER_{name}": text for name, text in environ.items()}


def only_problem(reading: Reading) -> str:
    assert len(reading.problems) == 1, reading.problems
    return reading.problems[0]


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """The order of interface.md, one setting for each step, with its origin."""
    file = tmp_path / "config.toml"
    file.write_text('access_token_ttl = "1m"\nstatus_ttl = "1m"\nclock_skew = 1\n')
    environ = variables(ACCESS_TOKEN_TTL="2m", STATUS_TTL="2m")

    loaded = load_settings("tool", {"access_token_ttl": "3m"}, environ, file)

    settings = loaded.settings
    assert (settings.access_token_ttl_s, settings.status_ttl_s, settings.clock_skew_s) == (
        180,
        120,
        1,
    )
    assert settings.drain_timeout_s == 20
    names = ("access_token_ttl", "status_ttl", "clock_skew", "drain_timeout")
    assert [loaded.origins[name] for name in names] == [
        "flag --access-token-ttl",
        "environment TOKEN_SERVER_STATUS_TTL",
        f"file {file}: clock_skew",
        "default",
    ]


def test_the_defaults_are_those_of_the_interface() -> None:
    """A default that changes is a change for every installation: it is pinned."""
    settings = load("serve", ISSUER="https://auth.example", PASSWORD_HASH_SLOTS="3").settings

    shown = {n: show_value(s, getattr(settings, s.field)) for n, s in SETTINGS.items()}
    assert shown == {
        "issuer": "https://auth.example",
        "bind": "127.0.0.1:8080",
        "management_bind": "127.0.0.1:9001",
        "database_url": "sqlite:///data/token-server.db",
        "keys_dir": "keys",
        "key_store": "directory",
        "master_key_file": "keys/master.key",
        "workers": "1",
        "access_token_ttl": "15m",
        "refresh_idle_ttl": "7d",
        "refresh_absolute_ttl": "30d",
        "refresh_replay_window": "30s",
        "default_audience": "https://auth.example",
        "access_token_typ": "at+jwt",
        "registration": "closed",
        "registration_silent": "no",
        "browser_origins": "https://auth.example",
        "trusted_proxies": "",
        "password_min_length": "8",
        "password_max_length": "100",
        "argon2_memory_kib": "19456",
        "argon2_time_cost": "2",
        "argon2_parallelism": "1",
        "password_hash_slots": "3",
        "password_hash_queue": "96",
        "guess_alarm_per_minute": "300",
        "key_lead": "1d",
        "key_rotate_every": "90d",
        "key_bits": "2048",
        "jwks_max_age": "5m",
        "key_reload_interval": "5s",
        "status_ttl": "10s",
        "clock_skew": "10s",
        "max_connections": "10000",
        "max_connections_per_source": "1000",
        "max_requests": "1000",
        "drain_delay": "0s",
        "drain_timeout": "20s",
        "log_format": "json",
        "log_level": "info",
    }


def test_every_field_has_a_setting_and_a_description() -> None:
    """No field of the struct is out of reach or unexplained."""
    fields = set(Settings.__struct_fields__) - {"mode"}

    assert {setting.field for setting in SETTINGS.values()} == fields
    assert all(setting.description.endswith(".") for setting in SETTINGS.values())


def test_dev_has_friendly_defaults() -> None:
    """dev: issuer at its port, open registration, a key rotation one can watch (keys.md I2)."""
    settings = load("dev", BIND="127.0.0.1:9999").settings

    assert settings.issuer == settings.default_audience == "http://127.0.0.1:9999"
    assert settings.registration == "open"
    assert (settings.jwks_max_age_s, settings.key_lead_s) == (5, 25)


@pytest.mark.parametrize(
    ("bind", "issuer"),
    [
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://127.0.0.1:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("localhost:8080", "http://localhost:8080"),
    ],
)
def test_dev_issuer_is_an_address_to_connect_to(bind: str, issuer: str) -> None:
    """0.0.0.0 is for listening: an issuer that names it would lead nowhere."""
    assert load("dev", BIND=bind).settings.issuer == issuer


def test_the_console_format_is_for_terminals() -> None:
    """Logs for people where people look, JSON everywhere else."""
    assert load_settings("serve", {}, {}, terminal=True).settings.log_format == "console"
    assert load_settings("serve", {}, {}, terminal=False).settings.log_format == "json"


def test_the_master_key_is_in_the_key_directory_by_default() -> None:
    """A KEYS_DIR elsewhere takes its master key with it, unless told otherwise."""
    assert load(KEYS_DIR="/srv/keys").settings.master_key_file == Path("/srv/keys/master.key")
    stated = load(KEYS_DIR="/srv/keys", MASTER_KEY_FILE="/run/secrets/master")
    assert stated.settings.master_key_file == Path("/run/secrets/master")


def test_hash_slots_are_shared_by_the_workers() -> None:
    """All workers together never hash on more threads than there are cores, but for the least."""
    assert load(WORKERS="64").settings.password_hash_slots == 1


@pytest.mark.parametrize(
    ("own", "files", "limits"),
    [
        ("0::/\n", {"": "max 100000"}, []),
        ("0::/\n", {"": "150000 100000"}, [1]),
        ("0::/\n", {"": "50000 100000"}, [1]),
        ("0::/\n", {}, []),
        ("0::/a/b\n", {"a/b": "400000 100000", "a": "200000 100000"}, [4, 2]),
        ("0::/a/b\n", {"a/b": "max 100000", "": "300000 100000"}, [3]),
        ("1:cpu:/x\n0::/a\n", {"a": "800000 100000"}, [8]),
        ("1:cpu:/x\n", {"": "100000 100000"}, []),
        ("0::/a\n", {"a": "nonsense"}, []),
        ("0::/a\n", {"a": "1 0"}, []),
        ("", {}, []),
    ],
)
def test_cpu_limit_of_a_container_counts_as_its_cores(
    tmp_path: Path, own: str, files: dict[str, str], limits: list[int]
) -> None:
    """Slots for every core of the host would have the event loop stopped with them; what cannot
    be read is no limit."""
    (tmp_path / "self").write_text(own)
    for group, text in files.items():
        (tmp_path / "cgroup" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / group / "cpu.max").write_text(text + "\n")

    assert cpu_limits(tmp_path / "self", tmp_path / "cgroup") == limits
    assert cpu_limits(tmp_path / "missing", tmp_path / "cgroup") == []


@pytest.mark.parametrize(
    ("stated", "queue"),
    [
        ({}, 64),
        ({"ARGON2_MEMORY_KIB": "38912"}, 32),
        ({"ARGON2_MEMORY_KIB": "65536", "ARGON2_TIME_COST": "3"}, 12),
        ({"ARGON2_MEMORY_KIB": "4194304"}, 8),
        ({"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}, 64),
        ({"ARGON2_MEMORY_KIB": "65536", "PASSWORD_HASH_QUEUE": "5"}, 5),
        ({"PASSWORD_HASH_QUEUE": "0"}, 0),
    ],
)
def test_dearer_hashes_get_a_shorter_queue(stated: dict[str, str], queue: int) -> None:
    """By default who waits, waits for about a second; what is stated is taken as it is."""
    settings = load("tool", PASSWORD_HASH_SLOTS="2", **stated).settings
    assert settings.password_hash_queue == queue


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400)]
)
def test_durations_have_units_or_are_seconds(text: str, seconds: int) -> None:
    """`15m`, `7d`, or seconds (interface.md)."""
    assert load(ACCESS_TOKEN_TTL=text).settings.access_token_ttl_s == seconds


REFUSED = [
    ("ACCESS_TOKEN_TTL", "0"),
    ("ACCESS_TOKEN_TTL", "2d"),
    ("ACCESS_TOKEN_TTL", "15 m"),
    ("ACCESS_TOKEN_TTL", "15M"),
    ("ACCESS_TOKEN_TTL", "-1"),
    ("ACCESS_TOKEN_TTL", "1.5h"),
    ("ACCESS_TOKEN_TTL", "\u0661\u0665"),
    ("ACCESS_TOKEN_TTL", ""),
    ("REFRESH_REPLAY_WINDOW", "301"),
    ("WORKERS", "0"),
    ("WORKERS", "1_0"),
    ("WORKERS", "1m"),
    ("KEY_BITS", "1024"),
    ("REGISTRATION", "Open"),
    ("PASSWORD_MIN_LENGTH", "7"),
    ("ISSUER", "auth.example"),
    ("ISSUER", "http://auth.example"),
    ("ISSUER", "https://auth.example/"),
    ("ISSUER", "https://auth.example/a//b"),
    ("ISSUER", "https://auth.example/a/../b"),
    ("ISSUER", "https://auth.example/%61"),
    ("ISSUER", "https://auth.example?x=1"),
    ("ISSUER", "https://auth.example#x"),
    ("ISSUER", "https://auth.example?"),
    ("ISSUER", "https://user@auth.example"),
    ("ISSUER", "https://Auth.example"),
    ("ISSUER", "HTTPS://auth.example"),
    ("ISSUER", "https://auth.example:443"),
    ("ISSUER", "https://auth.example:0x50"),
    ("ISSUER", "https://auth.example:"),
    ("ISSUER", "https://"),
    ("ISSUER", "https://auth.ex\u00e4mple"),
    ("ISSUER", "https://auth_1.example"),
    ("ISSUER", "https://[::1"),
    ("ISSUER", "https://auth.example\n"),
    ("BIND", "8080"),
    ("BIND", ":8080"),
    ("BIND", "::1:8080"),
    ("BIND", "127.0.0.1:65536"),
    ("BIND", "example.com:8080"),
    ("DATABASE_URL", "mysql://a/b"),
    ("DATABASE_URL", "sqlite://"),
    ("DATABASE_URL", "sqlite:///:memory:"),
    ("DATABASE_URL", "postgresql://host"),
    ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ("TRUSTED_PROXIES", "0.0.0.0/0"),
    ("TRUSTED_PROXIES", "proxy.internal"),
    ("DEFAULT_AUDIENCE", "a b"),
    ("KEYS_DIR", ""),
    ("KEYS_DIR", "a\x00b"),
]


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_what_is_not_allowed_is_refused_with_its_origin(name: str, text: str) -> None:
    """Each refusal names the variable and says what is allowed."""
    problem = only_problem(read_settings("tool", {}, variables(**{name: text})))

    assert problem.startswith(f"environment TOKEN_SERVER_{name}: must ")


@pytest.mark.parametrize(
    "issuer",
    [
        "https://auth.example",
        "https://auth.example:8443",
        "https://auth.example/tenant-1",
        "https://10.0.0.1",
        "https://[2001:db8::1]:8443",
        "http://localhost:8080",
        "http://127.0.0.1",
        "http://[::1]:8080",
    ],
)
def test_plain_issuers_are_taken_as_they_are(issuer: str) -> None:
    """The issuer is compared byte for byte everywhere (RFC 8414 3.3), so it is never rewritten."""
    assert load(ISSUER=issuer).settings.issuer == issuer


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"REFRESH_IDLE_TTL": "31d"}, "REFRESH_ABSOLUTE_TTL"),
        ({"KEY_LEAD": "614s"}, "at least 615s"),
        ({"KEY_LEAD": "90d"}, "KEY_ROTATE_EVERY"),
        ({"ARGON2_MEMORY_KIB": "8", "ARGON2_PARALLELISM": "2"}, "at least 16"),
        ({"PASSWORD_MIN_LENGTH": "101"}, "PASSWORD_MAX_LENGTH"),
        ({"MANAGEMENT_BIND": "127.0.0.1:8080"}, "BIND"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    environ: dict[str, str], words: str
) -> None:
    """Rules between settings name both sides."""
    assert words in only_problem(read_settings("tool", {}, variables(**environ)))


def test_every_problem_is_shown_at_once(tmp_path: Path) -> None:
    """One start, one list (case 267): flags, environment and file together."""
    file = tmp_path / "config.toml"
    file.write_text('issuerr = "https://a.example"\nworkers = "many"\n[table]\nx = 1\n')
    environ = variables(ISUER="x", ACCESS_TOKEN_TTL="never")

    with pytest.raises(OperatorError) as caught:
        load_settings("serve", {"bind": "nowhere"}, environ, file)

    message = caught.value.message
    assert caught.value.exit_code == 2
    assert message.startswith("The settings have 6 problems:")
    assert "'issuerr' is not a setting; did you mean issuer?" in message
    assert "'TOKEN_SERVER_ISUER' is not a variable of token-server; did you mean" in message
    assert "environment TOKEN_SERVER_ACCESS_TOKEN_TTL: must be" in message
    assert "flag --bind: must be" in message
    assert f"file {file}: workers: must be" in message
    assert "'table' is not a setting" in message


def test_variables_that_kubernetes_sets_are_not_ours() -> None:
    """A Service called token-server gives every pod TOKEN_SERVER_PORT and others."""
    kubernetes = variables(
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT="80",
        SERVICE_PORT_HTTP="80",
        PORT="tcp://10.0.0.1:80",
        PORT_80_TCP="tcp://10.0.0.1:80",
        PORT_80_TCP_PROTO="tcp",
        PORT_80_TCP_PORT="80",
        PORT_80_TCP_ADDR="10.0.0.1",
    )

    assert read_settings("tool", {}, kubernetes).problems == ()


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    """`*_FILE` for secrets, without the line break that editors add; links are followed."""
    file = tmp_path / "url"
    file.write_text(SECRET_URL + "\n")
    file.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(file)

    loaded = load(DATABASE_URL_FILE=str(link))

    assert loaded.settings.database_url.reveal() == SECRET_URL
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("mode", "problems", "warnings"), [(0o666, 1, 0), (0o644, 0, 1), (0o640, 0, 0)]
)
def test_the_mode_of_a_secret_file_is_judged(
    tmp_path: Path, mode: int, problems: int, warnings: int
) -> None:
    """World-writable is refused, world-readable warned about (keys.md)."""
    file = tmp_path / "url"
    file.write_text(SECRET_URL)
    file.chmod(mode)

    reading = read(DATABASE_URL_FILE=str(file))

    assert (len(reading.problems), len(reading.loaded.warnings)) == (problems, warnings)


def test_a_secret_stated_twice_is_refused() -> None:
    """Which of the two counts would be a guess."""
    reading = read(DATABASE_URL=SECRET_URL, DATABASE_URL_FILE="/nowhere")

    assert "both set" in only_problem(reading)


def test_a_secret_file_that_cannot_be_read_is_named() -> None:
    """The path and the reason, so that a wrong mount is found at once."""
    problem = only_problem(read(DATABASE_URL_FILE="/nowhere/url"))

    assert problem == (
        "TOKEN_SERVER_DATABASE_URL_FILE: cannot read '/nowhere/url': No such file or directory"
    )


@pytest.mark.parametrize("url", [SECRET_URL, "postgresql:///x?host=/run&password=hunter2"])
def test_a_password_in_a_flag_is_refused_and_not_echoed(url: str) -> None:
    """argv is readable by every user of the machine."""
    problem = only_problem(read_settings("tool", {"database_url": url}, {}))

    assert "TOKEN_SERVER_DATABASE_URL_FILE" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "url", ["postgres:hunter2@db/x", "mysql://app:hunter2@db/x", "postgresql://app:hunter2@db"]
)
def test_a_bad_secret_is_never_echoed(url: str, tmp_path: Path) -> None:
    """Not from the environment and not from the file."""
    file = tmp_path / "config.toml"
    file.write_text(f'database_url = "{url}"\n')

    readings = [read(DATABASE_URL=url), read_settings("tool", {}, {}, file)]

    assert not any("hunter2" in only_problem(reading) for reading in readings)


def test_settings_never_show_a_secret() -> None:
    """Neither the repr of the settings nor what `config show` prints holds the password."""
    settings = load(DATABASE_URL=SECRET_URL).settings

    assert "hunter2" not in repr(settings)
    shown = show_value(SETTINGS["database_url"], settings.database_url)
    assert shown == "postgresql://app:***@db.example/tokens"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://db/x", "postgresql://db/x"),
        ("postgresql://app@db/x", "postgresql://app:***@db/x"),
        ("postgresql://a:p@ss@db/x", "postgresql://a:***@db/x"),
        ("postgresql:///x?password=hunter2", "postgresql:///x?***"),
        ("sqlite:///data/x.db", "sqlite:///data/x.db"),
    ],
)
def test_database_addresses_are_shown_without_passwords(url: str, shown: str) -> None:
    """Wherever libpq allows a password, it is hidden."""
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    ("url", "mode", "warnings"),
    [(SECRET_URL, 0o644, 1), (SECRET_URL, 0o600, 0), ("sqlite:///data/x.db", 0o644, 0)],
)
def test_a_password_in_a_readable_file_is_warned_about(
    tmp_path: Path, url: str, mode: int, warnings: int
) -> None:
    """Only where there is one: most files of settings may be read by anybody."""
    file = tmp_path / "config.toml"
    file.write_text(f'database_url = "{url}"\n')
    file.chmod(mode)

    assert len(load_settings("tool", {}, {}, file).warnings) == warnings


def test_toml_takes_numbers_and_lists(tmp_path: Path) -> None:
    """TOML's own types are natural in a file: 900, and a list of networks."""
    file = tmp_path / "config.toml"
    file.write_text('access_token_ttl = 900\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n')

    settings = load_settings("tool", {}, {}, file).settings

    assert settings.access_token_ttl_s == 900
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]


@pytest.mark.parametrize("content", [b"issuer = ", b"\xff\xfe", b"issuer = true\n"])
def test_a_damaged_file_is_one_problem(tmp_path: Path, content: bytes) -> None:
    """A file that is no TOML, or holds the wrong type, is named and does not crash."""
    file = tmp_path / "config.toml"
    file.write_bytes(content)

    assert str(file) in only_problem(read_settings("tool", {}, {}, file))


def test_the_file_can_be_named_by_a_variable(tmp_path: Path) -> None:
    """TOKEN_SERVER_CONFIG is for containers, where flags are clumsy."""
    file = tmp_path / "config.toml"
    file.write_text("workers = 3\n")

    assert load(CONFIG=str(file)).settings.workers == 3

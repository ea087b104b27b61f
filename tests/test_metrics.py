"""The metrics as Prometheus reads them."""

from token_server.metrics import GUESS_DOORS, GUESS_OUTCOMES, MAX_LABEL_SETS, Metrics
from token_server.records import KeyState
from token_server.services.guessing import Door


def sample(metrics: Metrics, name: str) -> float:
    body, _ = metrics.render()
    values = [
        line.rpartition(" ")[2]
        for line in body.decode().splitlines()
        if line.startswith(name + " ")
    ]
    assert len(values) == 1, (name, values)
    return float(values[0])


def test_each_event_raises_its_series() -> None:
    """The names are an interface: dashboards and alerts rely on them."""
    metrics = Metrics()

    metrics.token_requests("password", "issued")
    metrics.token_requests("password", "issued")
    metrics.token_request_duration("password", 0.02)
    metrics.refresh("replayed")
    metrics.http_requests("/oauth2/token", 404)
    metrics.hash_queue(3)
    metrics.hash_duration(0.03)
    metrics.hash_wait(0.3)
    metrics.hash_refused("queue_full")
    metrics.audit_dropped()
    metrics.signing_keys({KeyState.ACTIVE: 1, KeyState.NEXT: 1})
    metrics.keyring(7, 2.5)
    metrics.key_rotation_due(-60)
    metrics.key_store_problem("write")
    metrics.guess("login", "failed")
    metrics.guess_alarm(True)

    expected = {
        'token_server_token_requests_total{grant="password",outcome="issued"}': 2,
        'token_server_token_request_duration_seconds_bucket{grant="password",le="0.025"}': 1,
        'token_server_token_request_duration_seconds_bucket{grant="password",le="0.01"}': 0,
        'token_server_refresh_total{outcome="replayed"}': 1,
        'token_server_http_requests_total{route="/oauth2/token",status="4xx"}': 1,
        "token_server_password_hash_queue": 3,
        "token_server_password_hash_duration_seconds_count": 1,
        'token_server_password_hash_wait_seconds_bucket{le="0.5"}': 1,
        'token_server_password_hash_wait_seconds_bucket{le="0.25"}': 0,
        'token_server_password_hash_refused_total{reason="queue_full"}': 1,
        'token_server_password_hash_refused_total{reason="share_taken"}': 0,
        "token_server_audit_events_dropped_total": 1,
        'token_server_signing_keys{state="active"}': 1,
        "token_server_keyring_generation": 7,
        "token_server_keyring_age_seconds": 2.5,
        "token_server_key_rotation_due_seconds": -60,
        'token_server_guesses_total{door="login",outcome="failed"}': 1,
        "token_server_guess_alarm": 1,
        'token_server_key_store_problems_total{operation="write"}': 1,
        'token_server_key_store_problems_total{operation="read"}': 0,
    }
    assert {name: sample(metrics, name) for name in expected} == expected


def test_known_series_begin_at_zero() -> None:
    """An alert on a rate needs the series before its first event."""
    metrics = Metrics()

    for outcome in (
        "rotated",
        "replayed",
        "reuse_revoked",
        "expired",
        "refused",
        "contended",
        "shadowed",
    ):
        assert sample(metrics, f'token_server_refresh_total{{outcome="{outcome}"}}') == 0
    assert set(GUESS_DOORS) == set(Door)
    for door in Door:
        for outcome in GUESS_OUTCOMES:
            labels = f'door="{door}",outcome="{outcome}"'
            assert sample(metrics, f"token_server_guesses_total{{{labels}}}") == 0
    for state in KeyState:
        assert sample(metrics, f'token_server_signing_keys{{state="{state.value}"}}') == 0


def test_a_state_that_is_gone_falls_to_zero() -> None:
    """The gauge is the whole truth of now, not of what was once seen."""
    metrics = Metrics()
    metrics.signing_keys({KeyState.NEXT: 1})
    metrics.signing_keys({KeyState.ACTIVE: 1})

    assert sample(metrics, 'token_server_signing_keys{state="next"}') == 0


def test_label_values_are_bounded() -> None:
    """Whatever a caller passes, the registry does not grow without end."""
    metrics = Metrics()
    for number in range(MAX_LABEL_SETS + 50):
        metrics.token_requests(f"grant-{number}", "issued")

    body, content_type = metrics.render()
    series = [x for x in body.splitlines() if x.startswith(b"token_server_token_requests_total{")]
    assert len(series) == MAX_LABEL_SETS + 1
    assert sample(metrics, 'token_server_token_requests_total{grant="other",outcome="other"}') == 50
    assert content_type.startswith("text/plain; version=")


def test_two_runtimes_count_apart() -> None:
    """Each has a registry of its own: tests and embedding programs may open several."""
    first, second = Metrics(), Metrics()
    first.refresh("rotated")

    assert sample(second, 'token_server_refresh_total{outcome="rotated"}') == 0

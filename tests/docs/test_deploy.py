"""The samples of docs/deploy, held against this release: settings, commands, paths, addresses."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.support.process import ROOT
from token_server.cli.main import cli
from token_server.config import PREFIX
from token_server.config_loading import read_settings

DEPLOY = ROOT / "docs" / "deploy"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
UNIT = (DEPLOY / "token-server.service").read_text()
INSTANCES = ("token-server-1", "token-server-2")
GRACE_S = 5  # to end, after everything that may take its time


def read_yaml(name: str) -> list[Any]:
    texts = (DEPLOY / name).read_text().split("\n---\n")
    return [msgspec.yaml.decode(text) for text in texts]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (document,) = read_yaml("compose.yaml")
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, Any]:
    """The objects by kind."""
    return {document["kind"]: document for document in read_yaml("kubernetes.yaml")}


def settings_of(environ: dict[str, str], secrets: Path) -> Any:
    """The settings of `serve` in a container: the image's variables below those of the sample.

    Secret files are read from `secrets` by their last name.
    """
    merged = {**dict(re.findall(rf"({PREFIX}\w+)=(\S+)", CONTAINERFILE)), **environ}
    (secrets / "content").write_text("postgresql://token_server:password@postgres/token_server")
    (secrets / "content").chmod(0o400)
    for name in merged:
        if name.endswith("_URL_FILE"):
            merged[name] = str(secrets / "content")
    reading = read_settings("serve", {}, merged)
    assert (reading.problems, reading.loaded.warnings) == ((), ())
    assert reading.loaded.is_stated("issuer")
    assert reading.loaded.is_stated("registration")
    return reading.loaded.settings


def is_command(words: list[str]) -> bool:
    return CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_compose_states_what_a_production_start_needs(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    """Every variable is a setting with a good value; both instances have the same ones."""
    services = compose["services"]
    settings = settings_of(services["token-server-1"]["environment"], tmp_path)

    assert services["token-server-2"]["environment"] == services["token-server-1"]["environment"]
    assert settings.key_store == "database"
    assert {service["image"] for name, service in services.items() if "token" in name} == {
        services["migrate"]["image"]
    }
    assert is_command(services["migrate"]["command"])
    for name in INSTANCES:
        limit_s = settings.drain_delay_s + settings.drain_timeout_s + GRACE_S
        assert seconds(services[name]["stop_grace_period"]) >= limit_s
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"}
        }


def test_compose_mounts_what_it_names(compose: dict[str, Any]) -> None:
    """Secrets are where the variables say, files exist, and each secret is declared."""
    instance = compose["services"]["token-server-1"]
    paths = [v for n, v in instance["environment"].items() if n.endswith("_FILE")]
    declared = set(compose["secrets"])

    assert {f"/run/secrets/{name}" for name in instance["secrets"]} == set(paths)
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= declared
    for mount in compose["services"]["nginx"]["volumes"]:
        source = mount.partition(":")[0]
        assert source == "./tls" or (DEPLOY / source).is_file()


def test_compose_addresses_agree(compose: dict[str, Any]) -> None:
    """nginx sends to the instances by name and port, and they believe nginx alone."""
    services = compose["services"]
    address = services["nginx"]["networks"]["default"]["ipv4_address"]
    balancer = (DEPLOY / "nginx-balancer.conf").read_text()
    port = re.search(r"TOKEN_SERVER_BIND=0\.0\.0\.0:(\d+)", CONTAINERFILE)
    assert port is not None

    assert services["token-server-1"]["environment"]["TOKEN_SERVER_TRUSTED_PROXIES"] == address
    assert re.findall(r"^ +server (\S+) ", balancer, re.MULTILINE) == [
        f"{name}:{port[1]}" for name in INSTANCES
    ]
    certificates = re.findall(r"ssl_certificate(?:_key)? +(\S+);", balancer)
    assert all(path.startswith("/etc/nginx/tls/") for path in certificates)


def test_kubernetes_states_what_a_production_start_needs(
    kubernetes: dict[str, Any], tmp_path: Path
) -> None:
    """Every variable is a setting with a good value, and the pod has time to drain."""
    settings = settings_of(kubernetes["ConfigMap"]["data"], tmp_path)
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]

    limit_s = settings.drain_delay_s + settings.drain_timeout_s + GRACE_S
    assert pod["terminationGracePeriodSeconds"] >= limit_s
    for container in (*pod["containers"], *pod["initContainers"]):
        assert is_command(container["args"])
        assert container["envFrom"] == [{"configMapRef": {"name": "token-server"}}]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    uid = re.search(r"--uid (\d+)", CONTAINERFILE)
    assert uid is not None
    assert pod["securityContext"]["runAsUser"] == int(uid[1])


def test_kubernetes_names_agree(kubernetes: dict[str, Any]) -> None:
    """Selectors find the pods, probes and ports are the server's, secrets are mounted."""
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    data = kubernetes["ConfigMap"]["data"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert kubernetes["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes["Service"]["spec"]["selector"] == labels
    assert kubernetes["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert f"TOKEN_SERVER_BIND=0.0.0.0:{ports['http']}" in CONTAINERFILE
    assert data["TOKEN_SERVER_MANAGEMENT_BIND"].endswith(f":{ports['management']}")
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    assert probes == {
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    (mount,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "secrets"]
    files = [v for n, v in data.items() if n.endswith("_FILE")]
    text = (DEPLOY / "README.md").read_text()
    assert all(f"--from-literal={path.removeprefix(f'{mount}/')}=" in text for path in files)


def test_the_image_leaves_secrets_to_files() -> None:
    """A variable of the image would be refused beside its `_FILE` (as two values of one)."""
    stated = re.findall(rf"{PREFIX}(\w+)=", CONTAINERFILE.partition("\nFROM")[2])

    assert "DATABASE_URL" not in stated
    assert re.search(r"^WORKDIR /$", CONTAINERFILE, re.MULTILINE), "relative defaults: /data, /keys"
    assert 'VOLUME ["/data", "/keys"]' in CONTAINERFILE


def test_the_unit_names_settings_of_this_release() -> None:
    """And leaves time to drain; SIGTERM goes to the main process."""
    environ = dict(re.findall(rf"^Environment=({PREFIX}\w+)=(\S+)$", UNIT, re.MULTILINE))
    stated = {f"{PREFIX}ISSUER": "https://auth.example", f"{PREFIX}REGISTRATION": "closed"}
    settings = read_settings("serve", {}, environ | stated).require().settings
    limit = re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    command = re.search(r"^ExecStart=\S+/token-server (.+)$", UNIT, re.MULTILINE)
    assert limit is not None
    assert command is not None

    assert int(limit[1]) >= settings.drain_delay_s + settings.drain_timeout_s + GRACE_S
    assert is_command(command[1].split())
    state = "/var/lib/token-server"
    assert str(settings.keys_dir).startswith(state)
    assert f"StateDirectory={Path(state).name}\n" in UNIT


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify`, with a program that exists here."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not on this machine: apt-get install systemd")
    unit = tmp_path / "token-server.service"
    unit.write_text(re.sub(r"(?<=^ExecStart=)\S+", sys.executable, UNIT, flags=re.MULTILINE))

    done = subprocess.run(
        [program, "verify", "--man=no", str(unit)],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (
        0,
        [],
    )


def test_every_file_is_in_the_index() -> None:
    """The page begins with what there is and what for."""
    text = (DEPLOY / "README.md").read_text()

    assert [p.name for p in DEPLOY.iterdir() if f"[{p.name}]({p.name})" not in text] == [
        "README.md"
    ]


def test_commands_of_the_page_exist() -> None:
    """`token-server NOUN VERB` in text and blocks."""
    text = (DEPLOY / "README.md").read_text()
    used = set(
        re.findall(r"token-server ((?:client|user|db|config|doctor|keys)(?: [a-z]+)?)", text)
    )

    assert len(used) >= 6
    assert [words for words in used if not is_command(words.split())] == []

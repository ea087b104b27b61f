"""nginx, Caddy and Traefik as real processes, each from its file in docs/deploy."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.listening import START_TIMEOUT_S, wait_until_it_listens
from tests.support.nginx import MISSING as NGINX_MISSING
from tests.support.nginx import find_nginx, free_address, running_nginx
from tests.support.process import ROOT

DEPLOY = ROOT / "docs" / "deploy"
MISSING = {
    "nginx": NGINX_MISSING,
    "caddy": "Caddy is not installed: apt-get install caddy",
    "traefik": "Traefik is not installed: https://doc.traefik.io/traefik/getting-started/install-traefik/",
}
PROXIES = tuple(MISSING)
NAME = "shop.example"
_TRAEFIK = """
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
entryPoints: {{web: {{address: "{address}"}}}}
providers: {{file: {{filename: "{directory}/site.yaml"}}}}
"""
_CADDY = "{\n\tadmin off\n\tauto_https off\n}\n\n"


def find_proxy(name: str) -> str | None:
    return find_nginx() if name == "nginx" else shutil.which(name)


@contextlib.contextmanager
def running_proxy(
    name: str, program: str, directory: Path, replacements: Mapping[str, str], client: str
) -> Iterator[str]:
    """The proxy with its file of docs/deploy and these names replaced, `client` being the base64
    of its credentials; the URL that it answers at, under the name `NAME`. TLS is left out: its
    certificate is not ours."""
    if name == "nginx":
        include = directory / "client.conf"
        include.write_text(f'proxy_set_header X-Forward-Auth-Client "Basic {client}";\n')
        names = {**replacements, "/etc/nginx/forward-auth-client.conf": str(include)}
        site = DEPLOY / "nginx.conf"
        with running_nginx(program, directory / "nginx", site, names) as nginx:
            yield "http://{}:{}".format(*nginx.address)
        return
    host, port = free_address()
    url = f"http://{host}:{port}"
    if name == "caddy":
        text = _replaced("Caddyfile", {**replacements, f"{NAME} {{": f"{url} {{"})
        (directory / "Caddyfile").write_text(_CADDY + text)
        command = [program, "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    else:
        text = _replaced("traefik.yaml", {**replacements, "tls: {}": "", "websecure": "web"})
        (directory / "site.yaml").write_text(text)
        static = _TRAEFIK.format(address=f"{host}:{port}", directory=directory)
        (directory / "traefik.yaml").write_text(static)
        command = [program, "--configfile=traefik.yaml"]
    with _running(command, directory, client) as process:
        wait_until_it_listens(process, (host, port), directory / "output.log")
        yield url


def _replaced(name: str, replacements: Mapping[str, str]) -> str:
    text = (DEPLOY / name).read_text()
    for old, new in replacements.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def _running(
    command: list[str], directory: Path, client: str
) -> Iterator["subprocess.Popen[bytes]"]:
    home = {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    with (directory / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **home, "FORWARD_AUTH_CLIENT": client},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""`token-server sbom`: what runs here, as a bill of materials that scanners read."""

import json
from pathlib import Path

import click


@click.command()
@click.option(
    "--requirements",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The hash-pinned requirements file of the installation: adds the hashes.",
)
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file and not to standard output.",
)
def sbom(requirements: Path | None, target: Path | None) -> None:
    """Print a software bill of materials (CycloneDX 1.6, JSON) of this installation.

    Names what is installed and used: the package, its dependencies with versions, package URLs
    and licences, the C libraries that run, and what is shipped inside. Needs no network.
    """
    from token_server.runtime import SystemClock
    from token_server.services.supply_chain import bill_of_materials

    document = bill_of_materials(SystemClock().now(), requirements)
    text = json.dumps(document, indent=2) + "\n"
    if target is None:
        click.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")

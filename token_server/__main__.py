"""Entry point of `token-server` and `python -m token_server`.

Looks first whether the server extra is installed: the base installation holds only what
`token_server.verify` needs, and an ImportError would not say so.
"""

import gc
import sys
from importlib.util import find_spec

SERVER_MODULES = (
    "click",
    "msgspec",
    "litestar",
    "uvicorn",
    "sqlalchemy",
    "argon2",
    "prometheus_client",
)


def missing_modules() -> list[str]:
    return [name for name in SERVER_MODULES if find_spec(name) is None]


def main() -> None:
    # Imports and requests make objects that stay or are freed by their counts: with Python's
    # threshold of 700 the collector looks through them again and again for nothing.
    gc.set_threshold(20_000, 20, 20)
    missing = missing_modules()
    if missing:
        sys.stderr.write(
            f"The server is not installed here (missing: {', '.join(missing)}). "
            'Run: pip install "token-server[server]"\n'
        )
        raise SystemExit(1)
    from token_server.cli.main import cli
    from token_server.cli.process_memory import forbid_core_files

    forbid_core_files()  # every command may have keys in memory
    cli(prog_name="token-server")


if __name__ == "__main__":
    main()

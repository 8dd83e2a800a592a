"""``python -m tests.serving.apart CONFIG``: uvicorn, the engine and decoders as ``timeexpert serve`` runs them.

What a command line cannot say, the config can: limits, and a name server that answers from a list, so that attacks by
name need no network. Decoder processes import this module too, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(path: Path) -> None:
    """Serve until SIGTERM."""
    import logging
    import socket

    from timeexpert.predict import Predictor
    from timeexpert.serving.app import create_app
    from timeexpert.serving.engine import Engine
    from timeexpert.serving.fetch import Fetcher, resolve
    from timeexpert.serving.limits import ServingLimits
    from timeexpert.serving.run import leave_threads, listen, serve
    from timeexpert.serving.settings import ServerSettings

    config = json.loads(path.read_text())
    logging.basicConfig(level=logging.INFO)
    limits, access = ServingLimits(**config.get("limits", {})), config.get("access", {})
    for name in ("allowed_folder", "samples"):
        if name in access:
            access[name] = Path(access[name])
    settings = ServerSettings(model="tiny", frame_size=16, limits=limits, **access)
    names = {name: iter(addresses) for name, addresses in config.get("names", {}).items()}

    def asked(host: str, port: int) -> list[str]:
        return next(names[host]).split() if host in names else resolve(host, port)

    def connect(address: str, port: int, timeout_s: float) -> socket.socket:
        with (path.parent / "connected.txt").open("a") as file:
            file.write(f"{address}:{port}\n")
        to = config.get("reach", {}).get(address)
        return socket.create_connection(("127.0.0.1", to) if to else (address, port), timeout=timeout_s)

    fetcher = Fetcher(settings.allowed_domains, limits, limits.max_upload_bytes, asked, connect)
    with listen("127.0.0.1", 0) as sock:
        with Engine(Predictor.from_pretrained(config["model"], device="cpu"), "tiny", limits) as engine:
            app = create_app(engine, settings, fetcher=fetcher)
            serve(app, sock, limits, ready=lambda url: print(url, flush=True))
    leave_threads()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""``timeexpert serve RUN``: an OpenAI-compatible server on this machine that says when things happen."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "serve a trained model to OpenAI clients: videos in, timed events out"
STOP_TIMEOUT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert serve``."""
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder, or a model folder like checkpoints/tiny")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes any free one (default 8000)")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="ask for this key on every path; the environment variable TIMEEXPERT_API_KEY does the same out of sight",
    )
    parser.add_argument(
        "--allowed-local-media-path", type=Path, metavar="DIR", help="answer file:// URLs in DIR (default: none)"
    )
    parser.add_argument("--max-body-mb", type=int, default=64, metavar="N", help="largest request in MiB (default 64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; requests that are being answered then are finished."""
    import os
    import signal
    from typing import Any

    from rich.console import Console

    from timeexpert.errors import UserError

    if not 0 <= args.port <= 65535:
        raise UserError(f"--port ({args.port}) must be a number from 0 to 65535.")
    if not 1 <= args.max_body_mb <= 1024:
        raise UserError(f"--max-body-mb ({args.max_body_mb}) must be a number from 1 to 1024.")

    from timeexpert.predict import Predictor
    from timeexpert.serving.engine import Engine
    from timeexpert.serving.limits import ServingLimits
    from timeexpert.serving.server import Access, Server

    key = args.api_key if args.api_key is not None else os.environ.get("TIMEEXPERT_API_KEY")
    access = Access(key, args.allowed_local_media_path)
    limits = ServingLimits(max_body_bytes=args.max_body_mb * 2**20)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    console = Console(highlight=False, soft_wrap=True)
    try:
        engine = Engine(Predictor.load(args.model, device=args.device), args.model.resolve().name, limits)
        with engine, Server(args.host, args.port, engine, access) as server:
            console.print(f"{engine.name} answers at {server.url}/v1/chat/completions; Ctrl-C stops it")
            if not server.loopback and key is None:
                console.print("[yellow]anybody who reaches this machine may ask[/]: set --api-key, or --host 127.0.0.1")
            try:
                server.serve_forever()
            finally:
                if not server.finish_requests(STOP_TIMEOUT_S):
                    console.print(f"requests that took longer than {STOP_TIMEOUT_S:g} s were given up")
    except KeyboardInterrupt:
        console.print("stopped")
    return 0

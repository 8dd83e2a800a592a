"""``timeexpert serve RUN``: an OpenAI-compatible server and a page on this machine that say when things happen."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "serve a trained model to OpenAI clients and as a page: videos in, timed events out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert serve``."""
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder, or a model folder like checkpoints/tiny")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes any free one (default 8000)")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="ask for this key; the environment variable TIMEEXPERT_API_KEY does the same out of sight",
    )
    parser.add_argument(
        "--allowed-local-media-path", type=Path, metavar="DIR", help="answer file:// URLs in DIR (default: none)"
    )
    parser.add_argument(
        "--allowed-media-domains",
        nargs="+",
        default=[],
        metavar="HOST",
        help="fetch http(s) videos from these hosts, HOST or HOST:PORT (default: none)",
    )
    parser.add_argument("--samples", type=Path, metavar="DIR", help="videos that the page offers (default: none)")
    parser.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN", help="a web page that may ask from a browser"
    )
    parser.add_argument("--max-body-mb", type=int, default=64, metavar="N", help="largest request in MiB (default 64)")
    parser.add_argument(
        "--max-upload-mb", type=int, default=512, metavar="N", help="largest uploaded or fetched video (default 512)"
    )
    parser.add_argument(
        "--decode-memory-mb",
        type=int,
        default=4096,
        metavar="N",
        help="memory in MiB that reading one video may take (default 4096; Linux)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; requests that are being answered then are finished."""
    import logging
    import os

    from rich.console import Console

    from timeexpert.errors import UserError

    if not 0 <= args.port <= 65535:
        raise UserError(f"--port ({args.port}) must be a number from 0 to 65535.")
    for flag, value, least, most in (
        ("--max-body-mb", args.max_body_mb, 1, 1024),
        ("--max-upload-mb", args.max_upload_mb, 1, 4096),
        ("--decode-memory-mb", args.decode_memory_mb, 256, 65_536),
    ):
        if not least <= value <= most:
            raise UserError(f"{flag} ({value}) must be a number from {least} to {most}.")
    try:
        import fastapi  # noqa: F401
        import multipart  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run: pip install 'timeexpert[serve]'") from None

    from timeexpert.predict import Predictor
    from timeexpert.serving.app import create_app
    from timeexpert.serving.engine import Engine
    from timeexpert.serving.limits import ServingLimits
    from timeexpert.serving.run import is_loopback, leave_threads, listen, serve
    from timeexpert.serving.settings import ServerSettings

    key = args.api_key if args.api_key is not None else os.environ.get("TIMEEXPERT_API_KEY")
    limits = ServingLimits(
        max_body_bytes=args.max_body_mb * 2**20,
        max_upload_bytes=args.max_upload_mb * 2**20,
        decode_memory_bytes=args.decode_memory_mb * 2**20,
    )
    console = Console(highlight=False, soft_wrap=True)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("timeexpert.serving").setLevel(logging.INFO)
    with listen(args.host, args.port) as sock:
        predictor = Predictor.from_pretrained(args.model, device=args.device)
        settings = ServerSettings(
            model=args.model.resolve().name,
            frame_size=predictor.answering.image_size,
            draws_masks=predictor.draws_masks,
            api_key=key,
            allowed_folder=args.allowed_local_media_path,
            allowed_domains=tuple(domain.lower() for domain in args.allowed_media_domains),
            cors_origins=tuple(args.cors_origin),
            samples=args.samples,
            loopback=is_loopback(sock),
            limits=limits,
        )
        with Engine(predictor, settings.model, limits) as engine:
            app = create_app(engine, settings)

            def say(url: str) -> None:
                console.print(
                    f"{settings.model} answers at {url}/v1/chat/completions, the page is {url}/; Ctrl-C stops it"
                )
                if not settings.loopback and key is None:
                    console.print(
                        "[yellow]anybody who reaches this machine may ask[/]: set --api-key, or --host 127.0.0.1"
                    )

            if not serve(app, sock, limits, ready=say):
                console.print(f"requests that took longer than {limits.stop_timeout_s:g} s were given up")
    console.print("stopped")
    leave_threads()
    return 0

"""`web`: a page on this machine that classifies the videos that are dropped on it."""

from __future__ import annotations

import socket
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def web_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Runs until Ctrl-C."""
    add = parser.add_argument
    add("checkpoint", metavar="MODEL", help="a run's OUTPUT_DIR (with its budgets), or a .pyth file in it")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=int, default=7860, help="0 takes a free one (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="auto (a GPU if there is one), cpu, cuda:1, …")
    add("--max-mb", type=int, default=200, metavar="N", help="of an upload (default: %(default)s)")
    add("--max-minutes", type=float, default=10.0, metavar="N", help="of a video (default: %(default)s)")
    add("--max-seconds", type=float, default=120.0, metavar="N", help="until it has arrived (%(default)s)")
    arguments = parser.parse_args(words)
    from revit_video.cli import clear_errors

    with clear_errors():
        try:
            import uvicorn

            from revit_video.web import Bounds, create_app
        except ModuleNotFoundError as error:
            raise ValueError(
                f"web needs {error.name}, which is not installed: pip install 'revit_video[web]'"
            ) from None
        import revit_video
        from revit_video.runtime.logging import setup

        if min(arguments.max_mb, arguments.max_minutes, arguments.max_seconds) <= 0:
            raise ValueError("--max-mb, --max-minutes and --max-seconds: must be above 0")
        setup()
        line = _listening(arguments.host, arguments.port)
        predictor = revit_video.load(arguments.checkpoint, arguments.device)
        bounds = Bounds(arguments.max_mb << 20, arguments.max_seconds, arguments.max_minutes)
        alone = arguments.host in LOOPBACK
        app = create_app(predictor, bounds, [*LOOPBACK, "[::1]"] if alone else ["*"])
        if not alone:
            print(f"warning: whoever reaches {arguments.host} can upload videos here", file=sys.stderr)
        shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"open http://{shown}:{line.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[line])


def _listening(host: str, port: int) -> socket.socket:
    """A socket at that address; `OSError` of one line where it cannot be had."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    line = socket.socket(kind)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        line.bind((host, port))
    except (OSError, OverflowError) as error:
        line.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"--host {host} --port {port}: {reason}") from None
    return line

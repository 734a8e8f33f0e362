"""``talk2dino serve``: the web page and the HTTP service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

_TOKEN = "Word that clients must send. Better: --token-file, or the variable TALK2DINO_TOKEN, which ps does not show."

_LABEL_STUDIO = "Label Studio whose images may be fetched, as its ML backend; the API key is in LABEL_STUDIO_API_KEY."


def serve(
    model: Annotated[str, typer.Option("--model", "-m", help="auto, a name from 'talk2dino models', a folder, or a hub id.")] = "auto",
    projection: Annotated[Path | None, typer.Option(help="Your own psi, as in 'talk2dino segment'.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text tower, as in 'talk2dino segment'.")] = None,
    translate: Annotated[str | None, typer.Option(help="Translation, as in 'talk2dino segment'.")] = None,
    method: Annotated[str, typer.Option(help="Default method; requests can name others.")] = "talk2dino",
    prototypes: Annotated[Path | None, typer.Option(help="freeda: folder written by 'talk2dino freeda build'.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, typer.Option(help="What runs the vision model: torch, compile, openvino or onnx.")] = "torch",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    token: Annotated[str | None, typer.Option(envvar="TALK2DINO_TOKEN", show_envvar=False, help=_TOKEN)] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token.")] = None,
    allow_anonymous: Annotated[bool, typer.Option(help="Listen beyond this machine without a token.")] = False,
    cors: Annotated[list[str] | None, typer.Option(metavar="ORIGIN", help="Origin whose pages may use the service; repeatable.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes, each with a model of its own.")] = 1,
    log_prompts: Annotated[bool, typer.Option(help="Write prompts into the log.")] = False,
    label_studio: Annotated[str | None, typer.Option(metavar="URL", help=_LABEL_STUDIO)] = None,
    max_upload: Annotated[int | None, typer.Option(min=1000, help="Bytes per request. [default: 32 million]")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Pixels per image. [default: 50 million]")] = None,
    max_prompts: Annotated[int | None, typer.Option(min=1, help="Prompts and synonyms per request. [default: 1000]")] = None,
    queue: Annotated[int | None, typer.Option(min=1, help="Requests at the same time; more get 503. [default: 64]")] = None,
    request_seconds: Annotated[float | None, typer.Option(help="Longest time per answer. [default: 120]")] = None,
    upload_seconds: Annotated[float | None, typer.Option(help="Longest time per upload. [default: 30]")] = None,
    sessions: Annotated[int | None, typer.Option(min=1, help="Encoded images that are kept. [default: 256]")] = None,
    session_bytes: Annotated[int | None, typer.Option(min=1, help="Their memory in bytes. [default: 2 billion]")] = None,
    session_seconds: Annotated[float | None, typer.Option(help="Time after which an unused one is forgotten. [default: 900]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=256, help="Images per forward pass. [default: 8]")] = None,
) -> None:  # fmt: skip
    """Open a web page and an HTTP service.

    The service listens on this machine only; --host opens it to a network and needs a token. GET /docs shows the API.
    Ctrl-C or SIGTERM stops it after the running requests.

    Example: talk2dino serve --model micro --open
    """
    from talk2dino.cli.usage import usage
    from talk2dino.io.settings import build_options

    need_server()
    from talk2dino.server.options import ServeOptions

    values: dict[str, Any] = {
        "model": model, "projection": projection, "text": text, "translate": translate, "method": method,
        "prototypes": prototypes, "device": device,
        "dtype": dtype, "engine": engine, "host": host, "port": port, "token": read_token(token, token_file),
        "allow_anonymous": allow_anonymous, "cors": cors or [], "workers": workers, "log_prompts": log_prompts,
        "label_studio": label_studio,
    }  # fmt: skip
    bounds = {
        "max_upload": max_upload, "max_pixels": max_pixels, "max_prompts": max_prompts, "queue": queue,
        "request_seconds": request_seconds, "upload_seconds": upload_seconds, "sessions": sessions,
        "session_bytes": session_bytes, "session_seconds": session_seconds, "batch_size": batch_size,
    }  # fmt: skip
    with usage():
        options = build_options(
            ServeOptions, values | {name: value for name, value in bounds.items() if value is not None}
        )
    run(options, open_browser)


def run(options: Any, open_browser: bool) -> None:
    """Listen until the service is stopped."""
    from talk2dino.cli.console import message, show_messages
    from talk2dino.server.lifecycle import leave_if_loading
    from talk2dino.server.lifecycle import serve as listen_and_serve

    def say(address: str) -> None:
        message(f"talk2dino: listening on {address} (Ctrl-C stops)")
        if options.label_studio is not None and "LABEL_STUDIO_API_KEY" not in os.environ:
            message("talk2dino: LABEL_STUDIO_API_KEY is not set: images of Label Studio cannot be fetched")

    listen_and_serve(options, on_listening=say, open_browser=open_browser, prepare_worker=show_messages)
    message("talk2dino: stopped")
    leave_if_loading()


def need_server() -> None:
    """Say which extra is missing."""
    import importlib.util

    from talk2dino.errors import MissingExtraError

    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.of(package, "serve", "talk2dino serve")


def read_token(token: str | None, file: Path | None) -> str | None:
    """The token of --token or --token-file."""
    if file is None:
        return token
    if token is not None:
        raise typer.BadParameter("give the token either with --token or with --token-file")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {file}: {error}", param_hint="--token-file") from None

"""Everything that can be set about the service. Each bound has a default that suits one machine with a few users."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from talk2dino.errors import InputError

MEGABYTE = 1_000_000


class ServeOptions(BaseModel):
    """One service: its model, its address, who may use it, and its bounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # the model
    model: str = "auto"
    projection: Path | None = None
    text: Path | None = Field(default=None, description="text tower of train-text, for other languages")
    translate: str | None = Field(default=None, description="auto, or a Marian model: translates prompts into English")
    method: str = "talk2dino"
    prototypes: Path | None = Field(default=None, description="folder of prototypes for the methods that need some")
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "torch"

    # who may use it, from where
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0: a free one")
    token: SecretStr | None = None
    allow_anonymous: bool = False
    cors: tuple[str, ...] = Field(default=(), description="origins whose pages may use the service")
    workers: int = Field(default=1, ge=1, le=64)
    log_prompts: bool = False
    label_studio: str | None = Field(default=None, description="address of the Label Studio whose images are fetched")

    # bounds
    max_upload: int = Field(default=32 * MEGABYTE, ge=1000, description="bytes of one request")
    max_uploads: int = Field(default=512 * MEGABYTE, ge=1000, description="bytes of all requests that are being read")
    max_pixels: int = Field(default=50_000_000, ge=1, description="pixels of one image")
    decoded_pixels: int = Field(default=200_000_000, ge=1, description="pixels of all images in memory")
    max_scores: int = Field(
        default=100_000_000, ge=1, description="scores (classes x pixels) of refinement and windows"
    )
    max_prompts: int = Field(default=1000, ge=1, le=20_000)
    max_connections: int = Field(default=512, ge=1)
    queue: int = Field(default=64, ge=1, description="requests that are worked on or wait")
    header_seconds: float = Field(default=10, gt=0, description="time to send the headers of a request")
    upload_seconds: float = Field(default=30, gt=0, description="time to send its body")
    request_seconds: float = Field(default=120, gt=0, description="time to answer it")
    stop_seconds: float = Field(default=30, ge=0, description="time for running requests when the service stops")
    sessions: int = Field(default=256, ge=1, description="encoded images that are kept")
    session_bytes: int = Field(default=2000 * MEGABYTE, ge=1, description="memory of all encoded images")
    session_seconds: float = Field(default=900, gt=0, description="time after which an unused encoded image goes")
    text_cache: int = Field(default=20_000, ge=0, description="vectors of words that are kept")

    # batches
    batch_size: int = Field(default=8, ge=1, le=256)
    batch_milliseconds: float = Field(default=5, ge=0, description="longest wait for others of the same size")

    @model_validator(mode="after")
    def _check(self) -> ServeOptions:
        from talk2dino.methods import check_method
        from talk2dino.words.translate import check_language_options

        check_method(self.method)
        check_language_options(self.text, self.translate)
        if self.token is not None:
            text = self.token.get_secret_value()
            if not text or not text.isascii() or not text.isprintable() or " " in text:
                raise InputError("a token must be one word of printable ASCII characters")
        elif not self.allow_anonymous and not is_loopback(self.host):
            raise InputError(
                f"listening on {self.host} would let everybody in this network use the service: set a token "
                "(--token-file FILE or --token WORD), or allow everybody with --allow-anonymous"
            )
        if self.label_studio is not None and not self.label_studio.startswith(("http://", "https://")):
            raise InputError(f"the address of Label Studio looks like http://127.0.0.1:8080; got {self.label_studio!r}")
        for origin in self.cors:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise InputError(f"an origin looks like https://example.org, without a path; got {origin!r}")
        return self

    @property
    def private(self) -> bool:
        """Whether only programs on this machine use the service, without a token."""
        return self.token is None and not self.allow_anonymous

    def method_options(self, name: str) -> dict[str, Any]:
        """Options of a method of that name."""
        from talk2dino.methods import option_names

        given = {"prototypes": None if self.prototypes is None else str(self.prototypes)}
        return {key: value for key, value in given.items() if value is not None and key in option_names(name)}


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

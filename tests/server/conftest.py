"""The service with micro, in this process."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from talk2dino import Segmenter
from talk2dino.server.app import create_app
from talk2dino.server.options import ServeOptions
from talk2dino.world.examples import example_png

#: Quick bounds for tests.
QUICK = {"model": "micro", "port": 0, "batch_milliseconds": 1}


@pytest.fixture(scope="session")
def segmenter():
    return Segmenter.from_pretrained("micro", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def beach() -> bytes:
    """A PNG of 480 x 360 pixels."""
    return example_png("beach")


@pytest.fixture
def client_of(segmenter):
    """Clients of services with given options; all are closed at the end."""
    opened = []

    def make(**options) -> TestClient:
        app = create_app(ServeOptions(**{**QUICK, **options}), segmenter)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of):
    return client_of()

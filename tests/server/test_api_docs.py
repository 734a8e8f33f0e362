"""The documentation page: its files come from the service, nothing comes from elsewhere, nothing is inline."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/docs", "text/html"),
        ("/docs/docs.js", "text/javascript"),
        ("/docs/docs.css", "text/css"),
        ("/openapi.json", "application/json"),
    ],
)
def test_the_files_are_there(client, path, media_type):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(client):
    page = client.get("/docs").text
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("/", "data:,")), address
        if address.startswith("/docs/"):
            assert client.get(address).status_code == 200
    assert re.findall(r"<script[^>]*>[^<]", page) == []
    assert "style=" not in page
    assert " on" not in "".join(re.findall(r"<[^>]*>", page))  # no onclick and the like
    script = client.get("/docs/docs.js").text
    assert "http" not in script
    assert "innerHTML" not in script


def test_it_is_small(client):
    assert sum(len(client.get(path).content) for path in ("/docs", "/docs/docs.js", "/docs/docs.css")) < 20_000


def test_it_needs_no_token_since_it_says_nothing_secret(client_of):
    client = client_of(token="s3cret")
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 200


def test_other_files_are_not_served(client):
    for path in ("/docs/api_docs.py", "/docs/..%2foptions.py", "/docs/index.html/x"):
        assert client.get(path).status_code == 404

"""Fixtures: a service with micro, and a browser that looks at its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import FLAGS, find_chromium
from webpage import PageUnderTest, running_service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.web)


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    with running_service() as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium: python tests/helpers/chromium.py says what to install")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any, service: str) -> Iterator[Callable[..., PageUnderTest]]:
    """Opens the page in a context of its own; after the test, no error may have been logged, nothing asked for elsewhere."""
    contexts, pages = [], []

    def open_page(address: str = service, **options: Any) -> PageUnderTest:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", **options})
        contexts.append(context)
        pages.append(PageUnderTest(context.new_page(), address))
        return pages[-1]

    yield open_page
    for context in contexts:
        context.close()
    for page in pages:
        assert not page.problems
        assert all(request.split()[1].startswith((page.address, "blob:", "about:")) for request in page.requests)


@pytest.fixture
def web(visit: Callable[..., PageUnderTest]) -> PageUnderTest:
    return visit().open()


@pytest.fixture(scope="session")
def segmenter():
    from talk2dino import Segmenter

    return Segmenter.from_pretrained("micro", device="cpu", dtype="float32")

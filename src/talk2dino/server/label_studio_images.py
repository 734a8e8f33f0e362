"""Images of Label Studio's tasks: fetched from the one Label Studio that the service was started with, and from nowhere else."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import quote, unquote, urljoin, urlsplit

from talk2dino.errors import DataError, InputError

KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
TIMEOUT = 10.0  # seconds per step
_REDIRECTS = 3
_ACCESS_SECONDS = 120.0  # access tokens live for five minutes
#: Addresses below which Label Studio serves files.
_FILES = re.compile(r"/(data/|storage-data/|(tasks|projects)/\d+/(resolve|presign)/)")
_CLOUD = ("s3", "gs", "azure-blob", "azure_spi")


class LabelStudioImages:
    """Fetches the images of tasks.

    Args:
        url: address of Label Studio, as ``--label-studio`` gives it.
        key: API key: a personal access token, or a legacy token.
        most_bytes: largest image file.
    """

    def __init__(self, url: str, key: str, most_bytes: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"--label-studio must look like http://127.0.0.1:8080; got {url!r}")
        self.url, self.key, self.most_bytes = url.rstrip("/"), key, most_bytes
        self.threads = ThreadPoolExecutor(4, "label-studio")
        self._origin = (parts.scheme, parts.netloc)
        self._base = parts.path.rstrip("/")
        self._access: tuple[float, str] = (0.0, "")

    def fetch(self, address: str, task: int | None = None) -> bytes:
        """The bytes of an image: an address of this Label Studio, with or without its host, or a data URI.

        Args:
            task: number of the task; with it, Label Studio also serves images of cloud storage (``s3://``, ``gs://``, ...).

        Raises:
            DataError: any other address; Label Studio cannot be reached, refuses, or sends too much.
        """
        if address.startswith("data:"):
            return data_uri(address)
        if urlsplit(address).scheme in _CLOUD and task is not None:
            address = f"/tasks/{task}/resolve/?fileuri={quote(base64.urlsafe_b64encode(address.encode()).decode())}"
        for _ in range(_REDIRECTS):
            path = self._path(address)
            response, content = self._get(path, {"Authorization": self._authorization()})
            if response.status not in (301, 302, 303, 307, 308):
                break
            address = urljoin(f"{self.url}{path}", response.getheader("Location", ""))
        if response.status != 200:
            hint = f"; check the API key in {KEY_VARIABLE}" if response.status in (401, 403) else ""
            raise DataError(f"Label Studio answered {response.status} for {_short(address)}{hint}")
        return content

    def _path(self, address: str) -> str:
        """The path and query of an address at this Label Studio."""
        parts = urlsplit(address)
        if (parts.scheme or parts.netloc) and (parts.scheme, parts.netloc) != self._origin:
            raise DataError(
                f"the image is at {_short(address)}, but this service fetches images from {self.url} only; upload it to Label "
                "Studio, or let Label Studio serve the storage itself (without pre-signed addresses)"
            )
        path = "/" + parts.path.lstrip("/")
        if self._base and path.startswith(f"{self._base}/"):
            path = path[len(self._base) :]
        plain = unquote(path)
        if not _FILES.match(plain) or ".." in plain.split("/") or re.search(r"[\x00-\x20\\]", address):
            raise DataError(f"{_short(address)} is not the address of a file in Label Studio")
        return quote(path, safe="/%:@!$&'()*+,;=~") + (
            f"?{quote(parts.query, safe='/%:@!$&()*+,;=?~')}" if parts.query else ""
        )

    def _get(self, path: str, headers: dict[str, str], body: bytes | None = None) -> tuple[HTTPResponse, bytes]:
        kind = HTTPSConnection if self._origin[0] == "https" else HTTPConnection
        with closing(kind(self._origin[1].rpartition("@")[2], timeout=TIMEOUT)) as connection:
            try:
                connection.request("GET" if body is None else "POST", f"{self._base}{path}", body, headers)
                response = connection.getresponse()
                content = response.read(self.most_bytes + 1)
            except (OSError, HTTPException, ValueError) as error:
                raise DataError(f"Label Studio at {self.url} cannot be reached: {error}") from None
        if len(content) > self.most_bytes:
            raise DataError(f"the image at {_short(path)} has more than {self.most_bytes:,} bytes")
        return response, content

    def _authorization(self) -> str:
        """Legacy tokens are sent as they are; personal access tokens (JWT) are exchanged for one that lives some minutes."""
        if self.key.count(".") != 2:
            return f"Token {self.key}"
        until, access = self._access
        if time.monotonic() > until:
            body = json.dumps({"refresh": self.key}).encode()
            response, content = self._get("/api/token/refresh/", {"Content-Type": "application/json"}, body)
            try:
                access = json.loads(content)["access"]
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"Label Studio does not accept the token in {KEY_VARIABLE} (status {response.status})"
                ) from None
            self._access = time.monotonic() + _ACCESS_SECONDS, access
        return f"Bearer {access}"


def data_uri(address: str) -> bytes:
    """The bytes in a ``data:...;base64,`` address.

    Raises:
        DataError: not base64.
    """
    head, comma, text = address.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{_short(address)} is not an image in base64") from None


def _short(address: str) -> str:
    return repr(address if len(address) <= 80 else f"{address[:77]}...")

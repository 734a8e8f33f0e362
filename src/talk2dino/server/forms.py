"""Multipart forms, read from the stream into memory: nothing of an upload is ever written to disk.

Starlette's own parser moves files above one megabyte to a temporary file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from talk2dino.server.problems import ClientLeft, Problem

MOST_PARTS = 32
LARGEST_FIELD = 1_000_000  # bytes of a field that is no file
LARGEST_HEADERS = 8_000  # bytes of the headers of one part


@dataclass
class Form:
    """Text fields by name, and the one file."""

    fields: dict[str, str] = field(default_factory=dict)
    image: bytes = b""


class _Reader:
    """Callbacks of the parser: collects part after part."""

    def __init__(self) -> None:
        self.form = Form()
        self.parts = 0
        self.finished = False
        self._start()

    def _start(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.header_name, self.header_value, self.header_bytes = b"", b"", 0
        self.name, self.content = "", bytearray()

    def on_part_begin(self) -> None:
        self._start()
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise Problem(413, f"the form has more than {MOST_PARTS} parts", kind="too-many-parts")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]
        self._count(end - start)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]
        self._count(end - start)

    def _count(self, size: int) -> None:
        self.header_bytes += size
        if self.header_bytes > LARGEST_HEADERS:
            raise Problem(413, f"the headers of a part are longer than {LARGEST_HEADERS} bytes", kind="too-large")

    def on_header_end(self) -> None:
        self.headers[self.header_name.lower()] = self.header_value
        self.header_name, self.header_value = b"", b""

    def on_headers_finished(self) -> None:
        kind, parameters = parse_options_header(self.headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in parameters:
            raise Problem(400, "a part of the form has no name", kind="not-a-form",
                          accepted='Content-Disposition: form-data; name="..."')  # fmt: skip
        self.name = parameters[b"name"].decode("utf-8", "replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.content += data[start:end]
        if self.name != "image" and len(self.content) > LARGEST_FIELD:
            raise Problem(413, f"the field {self.name[:60]!r} is longer than {LARGEST_FIELD:,} bytes", kind="too-large")

    def on_part_end(self) -> None:
        if self.name in self.form.fields or (self.name == "image" and self.form.image):
            raise Problem(422, f"the field {self.name[:60]!r} is there twice", kind="refused-input")
        if self.name == "image":
            self.form.image = bytes(self.content)
        else:
            try:
                self.form.fields[self.name] = self.content.decode("utf-8")
            except UnicodeDecodeError:
                raise Problem(400, f"the field {self.name[:60]!r} is not UTF-8 text", kind="not-utf-8") from None
        self.content = bytearray()

    def on_end(self) -> None:
        self.finished = True


async def read_form(request: Request) -> Form:
    """Read a multipart form whose file is called ``image``.

    Raises:
        Problem: 400 for a damaged or cut form, 413 for too much of something, 415 for another type, 422 without an image.
        ClientLeft: the connection closed before the end.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not parameters.get(b"boundary"):
        given = kind.decode("latin-1") or "no type"
        raise Problem(415, f"the body is {given[:60]}", kind="not-a-form", accepted="multipart/form-data with a boundary",
                      hint='curl -F image=@photo.jpg -F prompts="sky, grass"')  # fmt: skip
    reader = _Reader()
    calls = {name: getattr(reader, name) for name in dir(reader) if name.startswith("on_")}
    try:
        parser = MultipartParser(parameters[b"boundary"], calls)  # type: ignore[arg-type]
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, f"the multipart form is damaged: {error}", kind="not-a-form") from None
    except ClientDisconnect:
        raise ClientLeft from None
    if not reader.finished:
        raise Problem(400, "the multipart form ends before its closing boundary", kind="not-a-form")
    if not reader.form.image:
        raise Problem(422, "the form has no image", kind="refused-input", accepted="a file in the field 'image'")
    return reader.form

"""A small S3 server on loopback: the calls that image bytes need, with S3's own limits.

Objects live in memory, in one bucket. It checks no signatures. The contract suite passes on it and
on other servers alike: UNKAI_TEST_S3=http://127.0.0.1:PORT runs the suite against one of those.
Source: the API reference of Amazon S3 (PutObject, CopyObject, ListObjectsV2, multipart upload).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.builders import NOON

MIB = 1 << 20
MIN_PART_BYTES = 5 * MIB
"""A part that is not the last one must have so many."""
_NOT_FOUND = b"<Error><Code>NoSuchKey</Code></Error>"


@dataclass
class Bucket:
    """What the server holds, and what was asked of it."""

    name: str
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Parts of each upload that was neither completed nor aborted."""
    copies: list[str] = field(default_factory=list)
    """Keys that were made by copying: S3 refuses to copy more than 5 GiB."""
    longest_answer_bytes: int = 0
    refuses: bool = False
    """Answer all with 403, as to wrong credentials."""


@dataclass
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _respond(self) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _respond  # noqa: N815 - the base class's names

    def _answer(self) -> _Answer:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.bucket.refuses:
            return _Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if bucket != self.bucket.name:
            return _Answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        answers = {
            "GET": self._get if key else self._list,
            "HEAD": self._head,
            "PUT": self._put,
            "POST": self._post,
            "DELETE": self._delete,
        }
        return answers[self.command](key, query, body)

    def _head(self, key: str, _query: dict[str, str], _body: bytes) -> _Answer:
        whole = self.bucket.objects.get(key)
        if whole is None:
            return _Answer(404, _NOT_FOUND)
        return _Answer(200, headers=_described(whole) | {"Content-Length": str(len(whole))})

    def _get(self, key: str, _query: dict[str, str], _body: bytes) -> _Answer:
        whole = self.bucket.objects.get(key)
        if whole is None:
            return _Answer(404, _NOT_FOUND)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or len(whole) - 1)) if asked else (0, len(whole))
        piece, headers = whole[first : last + 1], _described(whole)
        if asked:
            headers["Content-Range"] = f"bytes {first}-{first + len(piece) - 1}/{len(whole)}"
        self.bucket.longest_answer_bytes = max(self.bucket.longest_answer_bytes, len(piece))
        return _Answer(206 if asked else 200, piece, headers)

    def _list(self, _key: str, query: dict[str, str], _body: bytes) -> _Answer:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            f"<ETag>{_etag(content)}</ETag><LastModified>{NOON:%Y-%m-%dT%H:%M:%S.000Z}"
            "</LastModified></Contents>"
            for key, content in sorted(self.bucket.objects.items())
            if key.startswith(query.get("prefix", ""))
        )
        page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return _Answer(200, page.encode())

    def _put(self, key: str, query: dict[str, str], body: bytes) -> _Answer:
        source = self.headers.get("x-amz-copy-source")
        if source is not None:
            self.bucket.copies.append(key)
            body = self.bucket.objects[unquote(source).lstrip("/").partition("/")[2]]
        if "uploadId" in query:
            self.bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.bucket.objects[key] = body
        copied = f"<CopyObjectResult><ETag>{_etag(body)}</ETag></CopyObjectResult>"
        return _Answer(200, copied.encode() if source else b"", {"ETag": _etag(body)})

    def _post(self, key: str, query: dict[str, str], body: bytes) -> _Answer:
        if "delete" in query:
            gone = re.findall(r"<Key>([^<]*)</Key>", body.decode())
            for each in gone:
                self.bucket.objects.pop(each, None)
            told = "".join(f"<Deleted><Key>{each}</Key></Deleted>" for each in gone)
            return _Answer(200, f"<DeleteResult>{told}</DeleteResult>".encode())
        if "uploads" in query:
            upload_id = secrets.token_hex(8)
            self.bucket.uploads[upload_id] = {}
            return _Answer(
                200,
                f"<InitiateMultipartUploadResult><Bucket>{self.bucket.name}</Bucket><Key>{key}"
                f"</Key><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        return self._complete(key, self.bucket.uploads.pop(query["uploadId"]))

    def _complete(self, key: str, parts: dict[int, bytes]) -> _Answer:
        pieces = [parts[number] for number in sorted(parts)]
        if any(len(piece) < MIN_PART_BYTES for piece in pieces[:-1]):
            return _Answer(400, b"<Error><Code>EntityTooSmall</Code></Error>")
        self.bucket.objects[key] = b"".join(pieces)
        done = (
            f"<CompleteMultipartUploadResult><Bucket>{self.bucket.name}</Bucket><Key>{key}</Key>"
            f"<ETag>{_etag(self.bucket.objects[key])}</ETag></CompleteMultipartUploadResult>"
        )
        return _Answer(200, done.encode())

    def _delete(self, key: str, query: dict[str, str], _body: bytes) -> _Answer:
        if "uploadId" in query:
            self.bucket.uploads.pop(query["uploadId"], None)
        else:
            self.bucket.objects.pop(key, None)
        return _Answer(204)


def _described(content: bytes) -> dict[str, str]:
    return {"ETag": _etag(content), "Last-Modified": format_datetime(NOON, usegmt=True)}


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@contextmanager
def a_bucket(name: str = "images") -> Iterator[tuple[str, Bucket]]:
    """Serve one bucket for the length of a `with`; give the server's URL and the bucket."""
    bucket = Bucket(name)
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), name="s3")
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bucket
    finally:
        server.shutdown()
        serving.join()
        server.server_close()

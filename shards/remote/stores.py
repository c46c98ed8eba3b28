"""What Headrace asks of a store, over fsspec: one request a function, no retries, the store's own exceptions.

`headrace.shards.remote.remote` adds names, retries and error texts.

A range is asked for with what is known of the object. The answer's head says whether it is a range at all and whether
the object is still the same; where it is not, the body is not read, so that no answer takes more memory than was asked
for.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")
Attempt = Callable[[Callable[[], Result]], Result]
"""Calls a function until it succeeds or may not be tried again."""

PARTIAL = ".partial"
"""Ending of the name under which a file store holds an upload that is not complete."""

PART_BYTES = 16 << 20
"""Larger objects go to S3 in parts of this size; each part is tried again by itself."""
MAX_PARTS = 10_000  # S3's own limit
PART_THREADS = 4


class Damaged(Exception):
    """What arrived is not what was sent: worth another try."""


class WebPage(Damaged):
    """A web page came in the place of an object."""

    def __init__(self) -> None:
        super().__init__("the answer is a web page, not the object: a login page or a proxy's error?")


class Unfit(Exception):
    """The store cannot do what is asked, however often: the text says why."""


class Changed(Exception):
    """An object is not any more what it was: the text says in what."""


NO_RANGES = (
    "the server does not answer ranges, as `python -m http.server` does not: serve the set with one that does, such as "
    "nginx or Caddy, or copy it here"
)


class Version(NamedTuple):
    """What tells one state of an object from another. What is not known is -1 or empty."""

    size: int = -1
    """Bytes."""
    etag: str = ""
    modified: str = ""
    """When it was written, as the store puts it."""
    ranges: bool = True
    """False where a server sends objects whole only."""

    def check(self, found: Version) -> None:
        """Raise Changed where `found` is another state than this one.

        The same ETag is enough, and so is the same time: servers behind one name may give the same file other ETags, or
        other times. What lies in it has checksums.
        """
        if -1 not in (self.size, found.size) and self.size != found.size:
            raise Changed(f"{found.size:,} bytes instead of {self.size:,}")
        marks = [(self.etag, found.etag, "ETag"), (self.modified, found.modified, "time of writing")]
        differing = [f"{what} {new} instead of {old}" for old, new, what in marks if old and new and old != new]
        if differing and not any(old == new for old, new, _ in marks if old):
            raise Changed(", ".join(differing))


class Store:
    """A file system of fsspec under one path.

    Thread-safe; belongs to the process that made it.

    Args:
        url: Where the objects lie.
        options: fsspec's options for the URL's protocol.
        timeout_s: Seconds that the store may stay silent; a whole request may take ten times as long.
    """

    def __init__(self, url: str, options: dict[str, Any], timeout_s: float) -> None:
        import fsspec
        from fsspec.asyn import AsyncFileSystem
        from fsspec.implementations.local import LocalFileSystem
        from fsspec.implementations.memory import MemoryFileSystem

        configured = fsspec.config.conf.get(url.partition("://")[0].lower(), {})
        options = merged(merged(self.defaults(timeout_s), configured), options)
        # Instances are shared through fsspec's cache; the settings made here are for this store alone.
        self.fs, path = fsspec.core.url_to_fs(url, **options, skip_instance_cache=True)
        self.path = path.rstrip("/")
        self.limit = {"timeout": 10 * timeout_s} if isinstance(self.fs, AsyncFileSystem) else {}
        # Asking for a version takes a request of its own here: it is asked each time only where that costs nothing.
        self.near = isinstance(self.fs, (LocalFileSystem, MemoryFileSystem))

    def defaults(self, timeout_s: float) -> dict[str, Any]:
        """Options of the protocol where the user gives none."""
        return {}

    def read(
        self, name: str, start: int, stop: int, known: Version | None = None, fresh: bool = False
    ) -> tuple[bytes, Version]:
        """Bytes [start, stop) of an object, or as many as came, and its version.

        Args:
            name: Of the object.
            start: First byte.
            stop: Behind the last byte.
            known: What the object was before; None where that does not matter.
            fresh: Ask caches on the way for the store's own answer.

        Raises:
            Changed: The object is not what is known.
        """
        version = Version()
        if known is not None:
            version = self.look(name) if self.near or not (known.etag or known.modified) else known
            known.check(version)
        return bytes(self.fs.cat_file(f"{self.path}/{name}", start=start, end=stop, **self.limit)), version

    def look(self, name: str) -> Version:
        """The version of an object, with its size; FileNotFoundError where there is none."""
        info = self.fs.info(f"{self.path}/{name}", **self.limit)
        if info["type"] == "directory":
            raise FileNotFoundError(name)
        if info["size"] is None:
            raise Unfit("the server does not say how large it is")
        modified = next((str(info[key]) for key in TIMES if info.get(key)), "")
        # Where it says nothing, an ETag that is always the same keeps `read` from asking again.
        etag = next((str(info[key]) for key in ETAGS if info.get(key)), "" if modified else "unknown")
        return Version(int(info["size"]), etag, modified)

    def size(self, name: str) -> int:
        """Bytes of an object; FileNotFoundError where there is none."""
        return self.look(name).size

    def upload(self, name: str, read: Callable[[int, int], bytes], size: int, attempt: Attempt[Any]) -> None:
        """Store [0, size) of what `read` gives; the object appears when it is whole."""
        path = f"{self.path}/{name}"

        def once() -> None:
            aside = f"{path}.{secrets.token_hex(4)}{PARTIAL}"
            try:
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                with self.fs.open(aside, "wb") as file:
                    for start in range(0, size, PART_BYTES):
                        file.write(read(start, min(start + PART_BYTES, size)))
                stored = int(self.fs.info(aside)["size"])
                if stored != size:
                    raise Damaged(f"{size:,} bytes were sent, the store has {stored:,}")
                self.fs.mv(aside, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.fs.rm_file(aside)
                raise

        attempt(once)

    def delete(self, name: str) -> None:
        """Remove an object; FileNotFoundError where there is none."""
        try:
            self.fs.rm_file(f"{self.path}/{name}", **self.limit)
        except KeyError as error:  # the memory file system's word for it
            raise FileNotFoundError(name) from error

    def copy(self, name: str, new: str) -> None:
        """Copy an object within the store, without its bytes passing here."""
        self.fs.cp_file(f"{self.path}/{name}", f"{self.path}/{new}", **self.limit)
        found, wanted = self.size(new), self.size(name)
        if found != wanted:
            raise Damaged(f"the copy has {found:,} bytes of {wanted:,}")

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the objects below a folder ("" is all), by name relative to the store's path."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(f"{self.path}/{folder}".rstrip("/"), detail=True, **self.limit)
        except FileNotFoundError:
            return {}
        prefix = f"{self.path}/"
        return {path.removeprefix(prefix): int(info["size"]) for path, info in found.items() if path.startswith(prefix)}


ETAGS = ("ETag", "etag", "generation", "md5Hash", "content_md5")
TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""What the file systems of fsspec call them."""


class HttpStore(Store):
    """A web server that answers ranges; it cannot be written to."""

    def defaults(self, timeout_s: float) -> dict[str, Any]:
        import aiohttp

        silence = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        # Ranges are of the file as it is, so no compression on the way. Proxies and .netrc come from the environment.
        return {
            "client_kwargs": {"timeout": silence, "trust_env": True},
            "headers": {"Accept-Encoding": "identity"},
        }

    def read(
        self, name: str, start: int, stop: int, known: Version | None = None, fresh: bool = False
    ) -> tuple[bytes, Version]:
        from fsspec.asyn import sync

        async def once() -> tuple[bytes, Version]:
            async with self.asking(name, start, stop, fresh) as answer:
                version = http_version(answer)
                length = answer.content_length
                # A whole object that is all that was asked for is no less right.
                if not version.ranges and (start > 0 or length != stop - start):
                    raise Unfit(NO_RANGES)
                if known is not None:
                    known.check(version)
                if answer.status == 416:
                    raise Damaged(f"bytes {start} to {stop} were asked for, it has {version.size:,}")
                if length is not None and length > stop - start:
                    raise Unfit(f"bytes {start} to {stop} were asked for, {length:,} came: {NO_RANGES}")
                if length is not None:
                    return await answer.read(), version
                content = bytearray()
                async for part in answer.content.iter_any():
                    content += part
                    if len(content) > stop - start:
                        raise Unfit(f"bytes {start} to {stop} were asked for, more came: {NO_RANGES}")
            return bytes(content), version

        return sync(self.fs.loop, once, **self.limit)

    def look(self, name: str) -> Version:
        from fsspec.asyn import sync

        async def once() -> Version:
            async with self.asking(name, 0, 1) as answer:
                version = http_version(answer)
            if version.size < 0:
                raise Unfit("the server does not say how large it is" if version.ranges else NO_RANGES)
            return version

        return sync(self.fs.loop, once, **self.limit)

    @asynccontextmanager
    async def asking(self, name: str, start: int, stop: int, fresh: bool = False) -> AsyncIterator[Any]:
        """The head of the answer to a range; a body that is not read is not fetched either."""
        options = dict(self.fs.kwargs)
        headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}"}
        if fresh:
            headers["Cache-Control"] = "no-cache"
        session = await self.fs.set_session()
        url = f"{self.path}/{name}"
        async with session.get(self.fs.encode_url(url), headers=headers, **options) as answer:
            if answer.status in (404, 410):
                raise FileNotFoundError(url)
            if answer.status != 416 or "Content-Range" not in answer.headers:
                answer.raise_for_status()
            yield answer

    def upload(self, name: str, read: Callable[[int, int], bytes], size: int, attempt: Attempt[Any]) -> None:
        raise Unfit("an HTTP server is read-only here; write to a folder or to S3")

    def delete(self, name: str) -> None:
        raise Unfit("an HTTP server is read-only here; write to a folder or to S3")

    def copy(self, name: str, new: str) -> None:
        raise Unfit("an HTTP server is read-only here; write to a folder or to S3")

    def sizes(self, folder: str) -> dict[str, int]:
        raise Unfit("an HTTP server has no list of names")


class S3Store(Store):
    """S3 and what speaks its protocol. An object appears when its upload is complete, so no name aside is needed."""

    def __init__(self, url: str, options: dict[str, Any], timeout_s: float) -> None:
        super().__init__(url, options, timeout_s)
        self.fs.retries = 1

    def defaults(self, timeout_s: float) -> dict[str, Any]:
        config = {
            "connect_timeout": timeout_s,
            "read_timeout": timeout_s,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 64,
        }
        return {"config_kwargs": config, "use_listings_cache": False}

    def call(self, method: str, name: str, **parameters: Any) -> dict[str, Any]:
        """One request about one object."""
        bucket, key, _ = self.fs.split_path(f"{self.path}/{name}")
        answer: dict[str, Any] = self.fs.call_s3(method, Bucket=bucket, Key=key, **parameters, **self.limit)
        return answer

    def read(
        self, name: str, start: int, stop: int, known: Version | None = None, fresh: bool = False
    ) -> tuple[bytes, Version]:
        from fsspec.asyn import sync

        bucket, key, _ = self.fs.split_path(f"{self.path}/{name}")
        condition = {"IfMatch": known.etag} if known is not None and known.etag else {}

        async def once() -> tuple[bytes, Version]:
            asked = f"bytes={start}-{stop - 1}"
            answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key, Range=asked, **condition)
            try:
                version = s3_version(answer)
                if "html" in answer.get("ContentType", "") and not version.etag:
                    raise WebPage
                if answer.get("ContentLength", 0) > stop - start:
                    raise Unfit(
                        f"bytes {start} to {stop} were asked for, {answer['ContentLength']:,} came: {NO_RANGES}"
                    )
                if known is not None:
                    known.check(version)
                return await answer["Body"].read(), version
            finally:
                answer["Body"].close()

        return sync(self.fs.loop, once, **self.limit)

    def look(self, name: str) -> Version:
        return s3_version(self.call("head_object", name))

    def delete(self, name: str) -> None:
        self.call("delete_object", name)

    def upload(self, name: str, read: Callable[[int, int], bytes], size: int, attempt: Attempt[Any]) -> None:
        if size <= PART_BYTES:
            content = read(0, size)
            attempt(lambda: self.kept_if_right(name, lambda: self.send("put_object", name, content)))
            etag = md5(content).hex()
        else:
            etag = self.upload_parts(name, read, size, attempt)
        head = attempt(lambda: self.call("head_object", name))
        self.kept_if_right(name, lambda: verify(head, size, etag))

    def kept_if_right(self, name: str, once: Callable[[], Result]) -> Result:
        """Remove an object that turns out to be Damaged."""
        try:
            return once()
        except Damaged:
            with contextlib.suppress(Exception):
                self.delete(name)
            raise

    def upload_parts(self, name: str, read: Callable[[int, int], bytes], size: int, attempt: Attempt[Any]) -> str:
        """The ETag to expect. Nothing is visible before the last request; what fails is aborted."""
        step = max(PART_BYTES, -(-size // MAX_PARTS))
        upload = attempt(lambda: self.call("create_multipart_upload", name))["UploadId"]

        def part(number: int) -> tuple[dict[str, Any], bytes]:
            content = read((number - 1) * step, min(number * step, size))
            answer = attempt(lambda: self.send("upload_part", name, content, UploadId=upload, PartNumber=number))
            return {"PartNumber": number, "ETag": answer["ETag"]}, md5(content)

        try:
            with ThreadPoolExecutor(PART_THREADS) as pool:
                sent = list(pool.map(part, range(1, -(-size // step) + 1)))
            parts = {"Parts": [part for part, _ in sent]}
            # Where the answer to this got lost, another try finds no such upload: `verify` tells whether it was made.
            with contextlib.suppress(FileNotFoundError):
                attempt(lambda: self.call("complete_multipart_upload", name, UploadId=upload, MultipartUpload=parts))
        except BaseException:
            with contextlib.suppress(Exception):
                self.call("abort_multipart_upload", name, UploadId=upload)
            raise
        return f"{md5(b''.join(digest for _, digest in sent)).hex()}-{len(sent)}"

    def send(self, method: str, name: str, content: bytes, **parameters: Any) -> dict[str, Any]:
        """An object or a part of one, with the checksum by which the store refuses what changed on the way."""
        digest = md5(content)
        header = base64.b64encode(digest).decode()
        answer = self.call(method, name, Body=content, ContentMD5=header, **parameters)
        compare(answer, digest.hex())  # some stores do not look at the header
        return answer


def http_version(answer: Any) -> Version:
    """What the head of an answer to a range says of the object. WebPage where it is about another thing."""
    headers = answer.headers
    if answer.status not in (200, 206, 416):
        raise Unfit(f"the server answers {answer.status}")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Unfit("the server compresses what it sends, so that ranges of the object itself cannot be had")
    ranges = answer.status != 200
    if not ranges and answer.content_type in ("text/html", "application/xhtml+xml"):
        raise WebPage
    size = total(headers.get("Content-Range", "")) if ranges else answer.content_length
    if not ranges and size == 0:
        ranges = True  # of nothing, all is all
    etag = headers.get("ETag", "").removeprefix("W/")
    return Version(-1 if size is None else size, etag, headers.get("Last-Modified", ""), ranges)


def s3_version(answer: Mapping[str, Any]) -> Version:
    """Likewise. S3's time, of whole seconds, is left out: its ETag changes whenever the content does."""
    size = total(answer["ContentRange"]) if answer.get("ContentRange") else answer.get("ContentLength")
    return Version(-1 if size is None else size, answer.get("ETag", ""))


def total(content_range: str) -> int | None:
    """Size of the whole object, of a header such as "bytes 0-99/1234"."""
    found = re.search(r"/(\d+)$", content_range)
    return int(found[1]) if found else None


def verify(head: Mapping[str, Any], size: int, etag: str) -> None:
    """Damaged where the stored object has not the size, or not the checksum, of what was sent."""
    if head["ContentLength"] != size:
        raise Damaged(f"{size:,} bytes were sent, the store has {head['ContentLength']:,}")
    compare(head, etag)


def compare(answer: Mapping[str, Any], expected: str) -> None:
    """Damaged where the ETag that S3 answers is made of MD5s, as it is unless a key encrypts, and not as expected."""
    etag = answer.get("ETag", "").strip('"')
    keyed = answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
    if not keyed and re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag) and etag != expected:
        raise Damaged(f"the store's checksum is {etag}, that of what was sent {expected}")


def merged(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over `defaults`; where both have a dictionary, key by key."""
    both = {
        key: {**defaults[key], **value}
        for key, value in options.items()
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping)
    }
    return {**defaults, **options, **both}


def md5(content: bytes) -> bytes:
    """S3's checksum; not for security."""
    return hashlib.md5(content, usedforsecurity=False).digest()


STORES: dict[str, type[Store]] = {"http": HttpStore, "https": HttpStore, "s3": S3Store, "s3a": S3Store}
"""By the URL's protocol; all others are file systems, where an upload gets its name by a move."""


def file_reader(descriptor: int, size: int) -> Callable[[int, int], bytes]:
    """Reads ranges of an open file; Unfit where it has become shorter than `size`."""

    def read(start: int, stop: int) -> bytes:
        content = os.pread(descriptor, stop - start, start)
        if len(content) != stop - start:
            raise Unfit(f"the file to upload was {size:,} bytes and has become shorter")
        return content

    return read

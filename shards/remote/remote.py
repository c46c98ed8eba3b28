"""Objects in a remote folder: S3, HTTP and whatever else fsspec speaks.

Every request is tried again, with growing and random pauses, when the store is busy, silent, or sends less than it
was asked for; a ShardError names the object and the cause. Credentials come from the environment or from fsspec's
configuration, and no text made here contains one.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from secrets import SystemRandom
from typing import Any, TypeVar
from urllib.parse import unquote

from headrace.shards.errors import MachineError, RemoteError, ShardError
from headrace.shards.remote.stores import (
    NO_RANGES,
    PARTIAL,
    STORES,
    Changed,
    Damaged,
    Store,
    Unfit,
    Version,
    file_reader,
)

Result = TypeVar("Result")

REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
BUSY = {408, 425, 429, 500, 502, 503, 504}
"""HTTP answers that ask for another try."""
BUSY_CODES = {"BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "XAmzContentSHA256Mismatch"}
"""S3's names of errors that another try may mend though their HTTP status does not say so."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"}
"""botocore's, which are no OSError; it may not be installed."""

REPLACED = "it was replaced while it was read, or the set was copied in part; open the set again when it is whole"

EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
"""Extra of this package that installs what a protocol needs."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often and how patiently a request is made."""

    tries: int = 6
    """Including the first."""
    pause_s: float = 0.25
    """Longest pause before the second try; each later one doubles. The real pause is random, at least half of it."""
    longest_pause_s: float = 10.0
    """Bound of the doubling."""
    timeout_s: float = 30.0
    """Silence of the store after which a try is given up; a whole request may take ten times as long."""

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after each failed try but the last."""
        for number in range(self.tries - 1):
            longest = min(self.longest_pause_s, self.pause_s * 2**number)
            yield longest * SystemRandom().uniform(0.5, 1.0)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """True for a URL such as s3://bucket/set; False for a path of this machine, and for every pathlib.Path."""
    return isinstance(path, str) and REMOTE.match(path) is not None


def from_anywhere(path: str | os.PathLike[str]) -> str:
    """The path as other folders have to write it: a URL as it is, else the absolute path."""
    return os.fspath(path) if is_remote(path) else os.path.abspath(path)


class RemoteFolder:
    """The objects whose URLs begin with `url` and a slash.

    Thread-safe; pickles, and works in a forked process. `str` and `repr` leave out credentials.

    Args:
        url: Such as s3://bucket/set or https://host/set.
        retry: Tries, pauses and timeout.
        storage_options: fsspec's options for the protocol, such as `anon=True` or `endpoint_url=...` for S3. What
            they leave out comes from the environment, from AWS's files and from fsspec's configuration.

    Raises:
        ShardError: Here for a protocol that is unknown or not installed; by the methods for what the store answers.
    """

    def __init__(self, url: str, *, retry: Retry | None = None, **storage_options: Any) -> None:
        if not is_remote(url):
            raise ShardError(f"{url}: not a URL")
        if re.search(r"[?#]", url):
            raise ShardError(f"{redact(url)}: a folder's URL has no query, so it cannot be signed")
        self.url = url.rstrip("/")
        self.retry = retry or Retry()
        self.storage_options = storage_options
        self._secrets = sorted(known_secrets(self.url, storage_options), key=len, reverse=True)
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._pid = 0
        self._connected()

    def __str__(self) -> str:
        return redact(self.url)

    def __repr__(self) -> str:
        return f"RemoteFolder({str(self)!r})"

    def __truediv__(self, name: object) -> str:
        """URL of an object, without credentials."""
        return f"{self}/{name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return remote_folder, (self.url, self.retry, self.storage_options)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object, all of them."""
        return self.fetch(name, start, stop)[0]

    def fetch(
        self, name: str, start: int, stop: int, known: Version | None = None, fresh: bool = False
    ) -> tuple[bytes, Version]:
        """`read`, with the object's version; MachineError where it is not the known one. See `Store.read`."""

        def once(store: Store) -> tuple[bytes, Version]:
            if start == stop:
                return b"", known or Version()
            try:
                content, version = store.read(name, start, stop, known, fresh)
            except Exception as error:
                if known is not None and http_status(error) == 412:
                    raise Changed(f"its ETag is not {known.etag} any more") from None
                raise
            if len(content) < stop - start:
                raise Damaged(f"bytes {start} to {stop} were asked for, {len(content)} bytes came")
            if len(content) > stop - start:
                raise Unfit(f"bytes {start} to {stop} were asked for, {len(content)} came: {NO_RANGES}")
            return content, version

        return self._attempt(name, once)

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return self._attempt(name, lambda store: store.size(name))

    def look(self, name: str) -> Version | None:
        """The version of an object, None where there is none."""

        def once(store: Store) -> Version | None:
            try:
                return store.look(name)
            except FileNotFoundError as error:
                if is_absence(error):
                    return None
                raise

        return self._attempt(name, once)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.look(name) is not None

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of all objects below a folder of this one, such as ".headrace/units/0001.json"."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Likewise with their bytes."""
        found = self._attempt(folder, lambda store: store.sizes(folder.strip("/")))
        return {name: size for name, size in found.items() if not name.endswith(PARTIAL)}

    def put(self, path: str | os.PathLike[str], name: str) -> None:
        """Upload a file of this machine. The object is visible whole or not at all, and verified."""
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._upload(name, file_reader(file.fileno(), size), size)
        except OSError as error:
            raise MachineError(f"{os.fspath(path)}: {error.strerror or error}") from error

    def write(self, name: str, content: bytes) -> None:
        """Store bytes as an object, visible whole or not at all, and verified."""
        self._upload(name, lambda start, stop: content[start:stop], len(content))

    def move(self, name: str, new: str) -> None:
        """Give an object another name; its bytes do not pass here. Interrupted, both names may be there."""
        self._attempt(name, lambda store: store.copy(name, new))
        self.delete(name)

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""

        def once(store: Store) -> None:
            try:
                store.delete(name)
            except FileNotFoundError as error:
                if not is_absence(error):
                    raise

        self._attempt(name, once)

    def _upload(self, name: str, read: Callable[[int, int], bytes], size: int) -> None:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ShardError(f"{self}: {name!r} is not the name of an object")
        try:
            store = self._connected()
            store.upload(name, read, size, lambda once: self._attempt(name, lambda _: once()))
        except (Damaged, Unfit) as error:
            raise RemoteError(f"{self / name}: {error}") from None

    def _connected(self) -> Store:
        """This process's connections: those of the process that it was forked from cannot be used."""
        with self._lock:
            if self._store is None or self._pid != os.getpid():
                protocol = self.url.partition("://")[0].lower()
                kind = STORES.get(protocol, Store)
                try:
                    self._store = kind(self.url, self.storage_options, self.retry.timeout_s)
                except ImportError as error:
                    extra = EXTRAS.get(protocol)
                    hint = f"pip install 'headrace[{extra}]'" if extra else str(error)
                    raise ShardError(f"{self}: {protocol}:// needs a package that is not installed: {hint}") from None
                except ValueError as error:
                    raise ShardError(f"{self}: {self._clean(str(error))}") from None
                self._pid = os.getpid()
            return self._store

    def _attempt(self, name: str, once: Callable[[Store], Result]) -> Result:
        """Try until it succeeds, may not be tried again, or has been tried often enough.

        The error is raised outside of the handlers, so that no traceback shows a cause with credentials in it.
        """
        store = self._connected()
        pauses = self.retry.pauses()
        tries = 0
        while True:
            tries += 1
            try:
                return once(store)
            except ShardError:
                raise
            except Changed as error:
                found = str(error)
                break
            except Exception as error:
                cause = self._clean(describe(error, self.retry.timeout_s))
                pause = next(pauses, None) if may_retry(error) else None
            if pause is None:
                after = f", after {tries} tries" if tries > 1 else ""
                raise RemoteError(f"{self / name if name else self}: {cause}{after}")
            time.sleep(pause)
        raise MachineError(f"{self / name}: {found}: {REPLACED}")

    def _clean(self, text: str) -> str:
        """Without credentials, and not endless."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = redact(text)
        return text if len(text) <= 300 else f"{text[:300]}..."


class Unchanging:
    """Objects of a folder that are to stay as they are while they are read: a set, and not two halves of two.

    The first answer about an object says what it is, and no request is made for that alone but where fsspec's general
    path is taken. Every later answer is compared. Thread-safe.

    Args:
        folder: Where the objects lie.
        sizes: Bytes that they must have.
    """

    def __init__(self, folder: RemoteFolder, sizes: Mapping[str, int]) -> None:
        self.folder = folder
        self._sizes = sizes
        self._known: dict[str, Version] = {}
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, name: str, start: int, stop: int, *, fresh: bool = False) -> bytes:
        """Bytes [start, stop) of an object; `fresh` as in `Store.read`.

        Raises:
            RemoteError: The store does not answer.
            MachineError: The object is not what it was.
        """
        known = self._known.get(name)
        expected = known or Version(self._sizes[name])
        content, version = self.folder.fetch(name, start, stop, expected, fresh)
        if known is None and start < stop:
            with self._lock:
                known = self._known.setdefault(name, version._replace(size=expected.size))
            try:
                known.check(version)  # two first answers may have been on their way at the same time
            except Changed as error:
                raise MachineError(f"{self.folder / name}: {error}: {REPLACED}") from None
        return content


def remote_folder(url: str, retry: Retry, storage_options: dict[str, Any]) -> RemoteFolder:
    """What a pickle calls."""
    return RemoteFolder(url, retry=retry, **storage_options)


# A user and password end at the last @ before a slash; or, where what looks like a port is none, at the last of all:
# not everybody writes the slashes of a password as they should be written. pathlib takes a slash of "://" away.
USER = re.compile(r"(?<=[A-Za-z0-9+.-]{2}:/)(/?)(?:[^/\s]*|[^/\s:@]*:(?!\d*(?:/|$))\S*)@")
QUERY = re.compile(r"(?<=[A-Za-z0-9+.-]{2}:/)([^\s?'\"]*)\?[^\s'\"]*")


def redact(text: str) -> str:
    """Without the user and password, and without the query, of any URL in it: for all that is shown or written."""
    return QUERY.sub(r"\1?***", USER.sub(r"\1***@", text))


def has_secrets(place: str | os.PathLike[str]) -> bool:
    """Whether a URL holds what must neither be shown nor written."""
    return redact(os.fspath(place)) != os.fspath(place)


SECRET_NAMES = re.compile(r"key|secret|token|pass|auth|cred|sas|user|connection_string")


def known_secrets(url: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Every text in the URL, the options and the environment that must not be shown."""
    user = USER.search(url)
    if user:
        parts = user[0].strip("/").removesuffix("@").split(":", 1)
        yield from filter(None, (*parts, *map(unquote, parts)))
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from known_secrets("", value)
        elif isinstance(value, str) and len(value) > 3 and SECRET_NAMES.search(key.lower()):
            yield value
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        value = os.environ.get(variable, "")
        if len(value) > 3:
            yield value


def causes(error: BaseException) -> Iterable[BaseException]:
    """An exception and those it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an exception of aiohttp or botocore."""
    for cause in causes(error):
        status = getattr(cause, "status", None)
        if isinstance(status, int):
            return status
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(code, int):
                return code
    return None


def error_code(error: BaseException) -> str:
    """S3's name of an error, empty where it has none."""
    for cause in causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def is_absence(error: BaseException) -> bool:
    """Whether FileNotFoundError means that: fsspec raises it, over HTTP, for every failure to ask for the size."""
    return http_status(error) in (404, 410) or isinstance(list(causes(error))[-1], (FileNotFoundError, KeyError))


def may_retry(error: BaseException) -> bool:
    """Whether another try may go better."""
    status = http_status(error)
    if status is not None:
        return status in BUSY or error_code(error) in BUSY_CODES
    if isinstance(error, FileNotFoundError):
        return not is_absence(error)
    names = {type(cause).__name__ for cause in causes(error)}
    return not (isinstance(error, (*FINAL, Unfit, TypeError, ValueError)) or names & FINAL_NAMES)


def describe(error: BaseException, timeout_s: float) -> str:
    """An exception in a few words."""
    root = list(causes(error))[-1]
    status = http_status(error)
    if isinstance(error, FileNotFoundError) and is_absence(error):
        return f"there is no such {'bucket' if error_code(error) == 'NoSuchBucket' else 'object'}"
    if type(root).__name__ == "TooManyRedirects":
        return "the server redirects without an end"
    if status is not None:
        code = error_code(error)
        said = getattr(root, "message", "") or str(error)
        return f"the store answers {code if code and not code.isdigit() else ''} {status} ({said})"
    if isinstance(error, (Damaged, Unfit)):
        return str(error)
    if any(isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__ for cause in causes(error)):
        return f"no answer within {timeout_s:g} s"
    if any(type(cause).__name__ == "NoCredentialsError" for cause in causes(error)):
        return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if isinstance(error, PermissionError):
        return f"permission denied ({error})"
    return f"{type(root).__name__}: {root}"

"""Implements the functions of `files.py` on the requests of an object store.

`google_store.py` and `s3_store.py` implement the requests. Each is tried `attempts` times and is
bounded: a range, a page of names. A dropped connection therefore never causes earlier bytes to be
read again.
"""

import abc
import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, BinaryIO, ClassVar, Final, NamedTuple, TypeVar

from google.api_core.retry import Retry

from trainer.storage.config import StorageConfig
from trainer.storage.failures import MissingError, StorageError
from trainer.storage.globs import glob_expression
from trainer.storage.interface import FileFacts
from trainer.storage.stored_file import StoredFile

_T = TypeVar("_T")
_PAGE: Final = 1000
_FIRST_PAUSE_SECS: Final = 0.2
_LONGEST_PAUSE_SECS: Final = 30.0


class ObjectPage(NamedTuple):
    """Holds one page of a listing.

    Attributes:
        items: Objects, as the client library returns them.
        folders: Prefixes up to the delimiter; empty if the listing has none.
        token: What the request for the next page needs; None after the last page.
    """

    items: list[Any]
    folders: list[str]
    token: str | None


class ObjectStore(abc.ABC):
    """Stores objects at `scheme://bucket/name`; a folder is a prefix of names.

    Subclasses implement the first methods, each with one request, and raise the errors of their
    client library. The other methods repeat requests and translate errors; `files.py` says more
    about each.

    Args:
        access: How the store is reached.

    Attributes:
        name: The service's name, for messages.
        transient: Errors after which a request is repeated.
    """

    name: ClassVar[str]
    transient: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, access: StorageConfig) -> None:
        self.access = access

    @abc.abstractmethod
    def get(self, bucket: str, name: str, start: int, length: int, version: str | None) -> bytes:
        """Reads a range of an object; with a version, only of that one."""

    @abc.abstractmethod
    def head(self, bucket: str, name: str) -> FileFacts:
        """Reads the facts of an object."""

    @abc.abstractmethod
    def page(
        self, bucket: str, prefix: str, token: str | None, size: int, delimiter: str | None
    ) -> ObjectPage:
        """Lists one page of the objects whose names start with a prefix."""

    @abc.abstractmethod
    def key(self, item: Any) -> str:
        """Returns the name of an object in a page."""

    @abc.abstractmethod
    def facts(self, item: Any) -> FileFacts:
        """Returns the facts of an object in a page."""

    @abc.abstractmethod
    def upload(
        self, bucket: str, name: str, source: IO[bytes], size: int, version: str | None
    ) -> str:
        """Writes an object atomically and returns its version.

        Args:
            bucket: The bucket.
            name: The object.
            source: The content, at its beginning.
            size: Its size in bytes.
            version: Overwrites only this version; empty if there must be no object.
        """

    @abc.abstractmethod
    def duplicate(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Copies an object within the store, without transferring its content."""

    @abc.abstractmethod
    def erase(self, bucket: str, name: str) -> None:
        """Deletes an object, which may be missing."""

    @abc.abstractmethod
    def explain(self, path: str, verb: str, error: Exception) -> StorageError | None:
        """Translates a permanent error of the client library; None if it is a bug."""

    def is_transient(self, error: Exception) -> bool:
        """Returns whether a request that failed may succeed when it is repeated."""
        return isinstance(error, self.transient)

    def stat(self, path: str) -> FileFacts:
        """Returns size and version of an object."""
        return self._call(path, "read", lambda: self.head(*self._object(path)))

    def exists(self, path: str) -> bool:
        """Returns whether an object of exactly that name exists."""
        try:
            self.stat(path)
        except MissingError:
            return False
        return True

    def is_folder(self, path: str) -> bool:
        """Returns whether any object exists under the address, taken as a folder."""
        return next(self._items(_as_folder(path), most=1), None) is not None

    def open_ranged(self, path: str) -> StoredFile:
        """Opens an object for ranged reads of the version that it has now."""
        facts = self.stat(path)
        return StoredFile(path, facts.size, partial(self.read, path, version=facts.version))

    def open_stream(self, path: str) -> BinaryIO:
        """Opens an object for sequential reading, in ranges of a few MiB."""
        return self.open_ranged(path).stream()

    def read(self, path: str, start: int, length: int, version: str | None = None) -> bytes:
        """Reads a range of an object, or of one version of it; less at its end."""
        place = self._object(path)
        return self._call(path, "read", lambda: self.get(*place, start, length, version))

    def walk(self, folder: str) -> Iterator[str]:
        """Lists the objects under a prefix by name, page by page, without folder markers."""
        return (name for name, _ in self._listed(folder))

    def entries(self, folder: str, *, below: bool = True) -> Iterator[tuple[str, FileFacts]]:
        """Lists objects like `walk`, with their facts; without `below` only the prefix's own."""
        listed = self._listed(folder, None if below else "/")
        return ((name, self.facts(item)) for name, item in listed)

    def list_names(self, folder: str) -> list[str]:
        """Lists the names directly under a prefix, sorted."""
        prefix = _as_folder(folder)
        skip = len(self._split(prefix)[1])
        names: set[str] = set()
        for page in self._pages(prefix, delimiter="/"):
            names.update(self.key(item)[skip:] for item in page.items)
            names.update(name[skip:].rstrip("/") for name in page.folders)
        return sorted(names - {""})

    def matching(self, pattern: str) -> list[str]:
        """Expands a glob; `*`, `?` and `[...]` match within one folder, `**` across folders.

        Brackets also stand for themselves, because names of objects may hold them.
        """
        _, name = self._split(pattern)
        place = pattern.removesuffix(name)
        magic = re.search(r"[*?\[]", name)
        if magic is None:
            # `set` names neither `set-2/1.png` nor `settings.csv`, which begin in the same way.
            found = next(self._items(pattern, most=1), None)
            named = found is not None and (
                not name or self.key(found) == name or self.is_folder(pattern)
            )
            return [pattern.rstrip("/")] if named else []
        expression = glob_expression(name)
        matches: set[str] = set()
        for item in self._items(f"{place}{name[: magic.start()]}"):
            # A pattern may match objects or folders; the set holds each folder once.
            key = self.key(item)
            match = expression.match(key)
            if match and key[match.end() : match.end() + 1] in ("", "/"):
                matches.add(f"{place}{match.group()}")
        return sorted(matches)

    def put(self, path: str, source: IO[bytes], version: str | None = None) -> str:
        """Writes an object atomically and returns its version; see `upload`."""

        def upload() -> str:
            size = source.seek(0, io.SEEK_END)
            source.seek(0)
            return self.upload(*self._object(path), source, size, version)

        return self._call(path, "write", upload)

    def copy(self, source: str, target: str) -> None:
        """Copies an object within the store."""
        self._call(source, "copy", lambda: self.duplicate(self._split(source), self._split(target)))

    def delete(self, path: str) -> None:
        """Deletes an object; does nothing if there is none."""
        self._call(path, "delete", lambda: self.erase(*self._split(path)))

    def _listed(self, folder: str, delimiter: str | None = None) -> Iterator[tuple[str, Any]]:
        prefix = _as_folder(folder)
        skip = len(self._split(prefix)[1])
        for item in self._items(prefix, delimiter=delimiter):
            name = self.key(item)
            if not name.endswith("/"):
                yield name[skip:], item

    def _items(
        self, path: str, *, most: int | None = None, delimiter: str | None = None
    ) -> Iterator[Any]:
        for page in self._pages(path, most=most, delimiter=delimiter):
            yield from page.items

    def _pages(
        self, path: str, *, most: int | None = None, delimiter: str | None = None
    ) -> Iterator[ObjectPage]:
        """Lists objects by prefix; each page is one request and is retried on its own."""
        bucket, prefix = self._split(path)
        token: str | None = None

        def request() -> ObjectPage:
            return self.page(bucket, prefix, token, most or _PAGE, delimiter)

        while True:
            page = self._call(path.rstrip("/"), "list", request)
            yield page
            token = page.token
            if token is None or most is not None:
                return

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, name = path.partition("://")[2].partition("/")
        # An address without a bucket and a name that was joined to it look like `gs://.name`.
        if not bucket[:1].isalnum():
            raise StorageError(path, "names no bucket; give the address as SCHEME://BUCKET/NAME")
        return bucket, name

    def _object(self, path: str) -> tuple[str, str]:
        bucket, name = self._split(path)
        if not name:
            raise StorageError(path, "names no object in a bucket; give SCHEME://BUCKET/NAME")
        return bucket, name

    def _call(self, path: str, verb: str, request: Callable[[], _T]) -> _T:
        """Repeats a request until it succeeds or the attempts are used up.

        Args:
            path: The address that the request concerns.
            verb: What the request does, for the error message.
            request: The request.

        Raises:
            StorageError: if the last attempt fails or the error is permanent.
        """
        attempts = 0

        def is_worth_repeating(error: Exception) -> bool:
            nonlocal attempts
            attempts += 1
            return attempts < self.access.attempts and self.is_transient(error)

        retry = Retry(
            is_worth_repeating,
            initial=_FIRST_PAUSE_SECS,
            maximum=_LONGEST_PAUSE_SECS,
            timeout=None,
        )
        try:
            return retry(request)()
        except Exception as error:
            if self.is_transient(error):
                raise StorageError(
                    path,
                    f"{self.name} did not answer in {attempts} attempts; check the network, and"
                    f" start again ({brief(error)})",
                ) from error
            explained = self.explain(path, verb, error)
            if explained is None:
                raise
            raise explained from error


def brief(error: Exception) -> str:
    """Returns the first line of an error's message, shortened."""
    return str(error).strip().partition("\n")[0][:200]


def _as_folder(path: str) -> str:
    return path.rstrip("/") + "/"

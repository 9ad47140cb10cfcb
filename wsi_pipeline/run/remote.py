"""Folders of files -> objects in an S3 bucket, and back. Sole home of obstore.

Copies whole files; what they mean, and in which order they must arrive, is known elsewhere.
Credentials come from the usual variables: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION`` and, for servers other than Amazon's, ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"

COPIES_AT_ONCE = 8
"""Files on their way at a time; a store is some hundred files of megabytes."""


class RemoteFolder:
    """A prefix in a bucket.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/results``.

    Raises
    ------
    ConfigError
        If the url is not of S3, or the extra ``s3`` is not installed.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(SCHEME):
            raise ConfigError(f"{url} is no address of a bucket; give {SCHEME}bucket/prefix")
        self.url = url.rstrip("/")
        self._store = _connect(self.url)

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises
        ------
        FileNotFoundError
            If there is none of this name.
        OutputError
            If the bucket cannot be reached.
        """
        import obstore

        with self._explained(name):
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except FileNotFoundError as error:
                raise _MissingError(f"there is no {self.url}/{name}") from error

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file, whole or not at all.

        Raises
        ------
        OutputError
            If the bucket cannot be reached or written.
        """
        import obstore

        with self._explained(name):
            obstore.put(self._store, name, content)

    def names(self, prefix: str) -> list[str]:
        """List the files below ``prefix``, which ends where the name of a folder ends."""
        import obstore

        with self._explained(prefix):
            pages = obstore.list(self._store, prefix.rstrip("/"))
            return sorted(entry["path"] for page in pages for entry in page)

    def remove(self, *names: str) -> None:
        """Remove files, if they are there."""
        import obstore

        with self._explained(names[0] if names else ""):
            obstore.delete(self._store, names)

    def upload(self, folder: Path, prefix: str, *, leave_out: Iterable[str] = ()) -> None:
        """Copy the files of a local folder below ``prefix``.

        Parameters
        ----------
        folder : Path
            Its hidden files stay.
        prefix : str
            Folder in the bucket.
        leave_out : iterable of str
            Names in ``folder`` that stay too.
        """
        kept = set(leave_out)
        files = [
            file
            for file in sorted(folder.rglob("*"))
            if file.is_file()
            and _is_shown(parts := file.relative_to(folder).parts)
            and parts[0] not in kept
        ]
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
            names = [f"{prefix}/{file.relative_to(folder).as_posix()}" for file in files]
            list(pool.map(self.write, names, files))

    def download(self, prefix: str, folder: Path) -> None:
        """Copy the files below ``prefix`` into a local folder."""
        names = self.names(prefix)
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
            list(pool.map(partial(self._fetch, prefix=prefix, folder=folder), names))

    def _fetch(self, name: str, prefix: str, folder: Path) -> None:
        file = folder / name.removeprefix(prefix).lstrip("/")
        if ".." in file.relative_to(folder).parts:
            raise OutputError(f"{self.url}/{name} would be written out of {folder}; remove it")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.read(name))

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what obstore raises into an error that names the object."""
        from obstore.exceptions import BaseError

        try:
            yield
        except _MissingError:
            raise
        except (BaseError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise OutputError(
                f"{self.url}/{name} cannot be reached: {reason}; check the bucket, AWS_REGION, "
                f"AWS_ENDPOINT_URL and the credentials"
            ) from error


class _MissingError(FileNotFoundError):
    """There is no such object; a missing bucket, which obstore reports alike, is another thing."""


def _is_shown(parts: tuple[str, ...]) -> bool:
    return not any(part.startswith(".") for part in parts)


def _connect(url: str) -> S3Store:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError(
            "results on s3:// need the package obstore; install it with "
            "pip install 'wsi-pipeline[s3]'"
        ) from error
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return S3Store.from_url(
        url,
        client_options={"allow_http": plain},
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
    )

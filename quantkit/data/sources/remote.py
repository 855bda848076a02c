"""Images at a URL, by fsspec: a folder, or archives and parquet files that are read partially."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.source import ImageSource
from quantkit.data.sources.blob import Blob, BlobItem, RemoteBlob
from quantkit.data.sources.folder import no_images
from quantkit.errors import CalibrationSetError, UsageError, one_line

# Supported storage; protocols that chain, unpack or execute are excluded, because calibration sets may contain URLs.
PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "http", "https", "az", "abfs", "abfss", "adl", "hf", "memory"})


class RemoteFiles:
    """The files of one remote file system.

    Args:
        url: a file, a folder or a pattern.
        options: options of the file system for fsspec, such as credentials or an endpoint.

    Raises:
        UsageError: the protocol is not supported, or a package for it is not installed.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.protocol = url.partition("://")[0]
        if self.protocol not in PROTOCOLS:
            raise UsageError(
                f"{self.protocol}:// is not supported", where=url, fix=f"give one of {', '.join(sorted(PROTOCOLS))}"
            )
        try:
            import fsspec
        except ImportError as error:
            raise UsageError("URLs need fsspec", where=url, fix="pip install 'quantkit[remote]'") from error
        try:
            self._fs, self.path = fsspec.core.url_to_fs(url, **(options or {}))
        except ImportError as error:
            raise UsageError(f"{self.protocol}:// needs another package ({one_line(error)})", where=url) from error
        except Exception as error:  # file systems raise different classes
            raise CalibrationSetError(f"cannot be opened ({one_line(error)})", where=url) from error
        self.url = url

    def blob(self, url: str) -> RemoteBlob:
        """Return one file.

        Raises:
            CalibrationSetError: the file does not exist.
        """
        return RemoteBlob(self._fs, self._fs._strip_protocol(url), url)

    def matching(self, pattern: str) -> list[Blob]:
        """Return the files that match a pattern with wildcards, sorted.

        Raises:
            CalibrationSetError: the files cannot be listed.
        """
        try:
            found = self._fs.glob(self._fs._strip_protocol(pattern), detail=True)
        except Exception as error:  # file systems raise different classes
            raise CalibrationSetError(f"cannot be listed ({one_line(error)})", where=pattern) from error
        return self._blobs(found)

    def is_folder(self) -> bool:
        """Return whether the URL is a folder; that of a web server must end with a slash."""
        if self.protocol in ("http", "https"):
            return self.url.endswith("/")  # a request would download a file
        try:
            return bool(self._fs.isdir(self.path))
        except Exception:  # treated as a file, which gives a better error message
            return False

    def listed(self) -> list[Blob]:
        """Return all files below the URL, sorted, without hidden files.

        Raises:
            CalibrationSetError: the files cannot be listed.
        """
        try:
            found = self._fs.find(self.path, detail=True)
        except Exception as error:  # file systems raise different classes
            raise CalibrationSetError(f"cannot be listed ({one_line(error)})", where=self.url) from error
        hidden = [path for path in found if any(part.startswith(".") for part in self._below(path).split("/"))]
        return self._blobs({path: info for path, info in found.items() if path not in hidden})

    def folder_source(self, blobs: Sequence[Blob]) -> ImageSource:
        """Return the images among the files of a folder.

        Raises:
            CalibrationSetError: there are none.
        """
        root = f"{self.url.rstrip('/')}/"
        items, others = [], Counter[str]()
        for blob in blobs:
            suffix = PurePosixPath(blob.name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                items.append(BlobItem(blob, blob.name.removeprefix(root), blob.size))
            else:
                others[suffix or "no suffix"] += 1
        if not items:
            raise no_images(others, self.url)
        return ImageSource(self.url, tuple(sorted(items, key=lambda item: item.id)))

    def _blobs(self, found: dict[str, dict[str, Any]]) -> list[Blob]:
        files = {path: info for path, info in found.items() if info.get("type", "file") == "file"}
        return [RemoteBlob(self._fs, path, self._url_of(path), files[path]) for path in sorted(files)]

    def _url_of(self, path: str) -> str:
        return path if "://" in path else f"{self.protocol}://{path.lstrip('/')}"

    def _below(self, path: str) -> str:
        return path.removeprefix(self.path).strip("/")

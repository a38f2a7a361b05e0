"""Files in an object store or behind any other protocol of fsspec: s3://, gs://, hf://."""

from __future__ import annotations

import asyncio
import copy
import gc
import re
from typing import Any, NoReturn

import fsspec
from fsspec.core import url_to_fs

from ..common.urls import beside, scheme_of, scrubbed, shown
from ..errors import UserError
from .event_loop import cancel_tasks
from .origin import Digest, Facts, Missing, Refused, Sink, Transient, from_base64

DENIED = ("Credential", "Permission", "Forbidden", "Gated", "Unauthorized", "RefreshError", "TokenRetrieval")
"""Parts of the names of the errors that boto, Google's and Hugging Face's clients raise where somebody may not read."""
S3 = ("s3", "s3a")
MISSING = ("NotFound", "NoSuchBucket", "NoSuchKey")


class ObjectOrigin:
    """A file by fsspec. Credentials, endpoints and regions are its own business and that of the library below it."""

    def __init__(self, url: str, stall_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self._loop = url, loop
        self._files: Any
        try:
            more = _s3_options(stall_s) if scheme_of(url) in S3 else {}
            self._files, self._path = url_to_fs(url, loop=loop, skip_instance_cache=True, **more)
            if more:
                self._files.retries = 1
        except ImportError:
            raise
        except ValueError:
            raise UserError(
                f"{shown(url)}: {scheme_of(url)}:// is not a protocol that fsspec knows; expected s3://, gs://, https://, hf://"
            ) from None
        except Exception as error:
            self._raise(error)

    def facts(self) -> Facts:
        try:
            self._files.invalidate_cache()  # it keeps listings
            info = self._files.info(self._path)
        except Exception as error:
            self._raise(error)
        if info.get("type", "file") != "file" or info.get("size") is None:
            raise Refused(f"{shown(self.url)} is not a file: give the URL of one")
        if info["size"] == 0:
            raise Refused(f"{shown(self.url)} is empty")
        lfs = info.get("lfs") or {}
        sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
        tags = ("ETag", "etag", "generation", "md5Hash", "blob_id")
        times = ("LastModified", "last_modified", "updated", "mtime")
        tag = sha256 or next((info[name] for name in tags if info.get(name)), "")
        modified = next((info[name] for name in times if info.get(name)), "")
        digest = Digest("sha256", sha256) if sha256 else from_base64("md5", info.get("md5Hash", ""))
        return Facts(int(info["size"]), str(tag), str(modified), digest or self._md5(str(tag)))

    def read(self, start: int, end: int, sink: Sink) -> None:
        try:
            found = self._range(start, end)
        except Exception as error:
            self._raise(error)
        if found is None:
            raise Transient("it was stopped")
        if len(found) > end - start:
            raise Transient(f"asked for {end - start} bytes, it sent {len(found)}")
        if not found:
            raise Transient(f"asked for {end - start} bytes, it sent none")
        sink(found)

    def _range(self, start: int, end: int) -> Any:
        if getattr(self._files, "async_impl", False):
            return self._files.cat_file(self._path, start=start, end=end)
        # By default hf:// would read 5 MiB more each time, ahead of a reader that is gone.
        with self._files.open(self._path, "rb", cache_type="none") as file:
            file.seek(start)
            return file.read(end - start)

    def read_all(self, sink: Sink) -> None:
        raise AssertionError("every object store has ranges")

    def beside(self, suffix: str) -> ObjectOrigin:
        other = copy.copy(self)
        other.url, other._path = beside(self.url, suffix), self._path + suffix
        return other

    def stop(self) -> None:
        cancel_tasks(self._loop)

    def close(self) -> None:
        """fsspec's file systems close their connections when they are deleted, and refer to themselves; after an error its traceback still
        refers to s3fs's, whose connections are closed here."""
        if (client := getattr(self._files, "_s3creator", None)) is not None:
            self._files.close_session(self._loop, client)
        self._files = None
        gc.collect()

    def _md5(self, tag: str) -> Digest | None:
        """S3's ETag of an object is its MD5, unless it was uploaded in parts (the tag then ends in their number) or is encrypted by a key
        of the user (docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html)."""
        digits = tag.strip('"')
        if scheme_of(self.url) not in S3 or not re.fullmatch("[0-9a-f]{32}", digits):
            return None
        bucket, key, version = self._files.split_path(self._path)
        which = {"VersionId": version} if version else {}
        try:
            head: dict[str, Any] = self._files.call_s3("head_object", Bucket=bucket, Key=key, **which)
        except Exception as error:
            self._raise(error)
        encrypted = head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head
        return None if encrypted else Digest("md5", digits)

    def _raise(self, error: Exception) -> NoReturn:
        """Raise what an error of a library means here. They have many classes of their own, so names and HTTP's codes decide."""
        names = " ".join(kind.__name__ for kind in type(error).__mro__)
        said = scrubbed(str(error)) or type(error).__name__
        if isinstance(error, UserError):
            raise error
        code = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
        if code in (401, 403) or any(name in names for name in DENIED):
            raise Refused(
                f"{shown(self.url)} may not be read ({said}); check the credentials of this account"
            ) from None
        if code == 404 or isinstance(error, FileNotFoundError) or any(name in names for name in MISSING):
            raise Missing(f"{shown(self.url)} does not exist; check the URL") from None
        raise Transient(said) from None


def _s3_options(stall_s: float) -> dict[str, Any]:
    """Of s3fs: botocore tries five times, s3fs five times that, and ``fetch`` again; here each tries once."""
    given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    waits = {"connect_timeout": min(stall_s, 10.0), "read_timeout": stall_s}
    return {"config_kwargs": {"retries": {"max_attempts": 0}, **waits, **given}}

"""URLs as people give them in place of a path, and what of them may be shown: never a password, a token or a signature."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ..errors import UserError
from .untrusted import printable

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
OF_A_PATH = re.compile(r"(s3|s3a|gs|gcs|http|https|hf):/(?=[^/])", re.IGNORECASE)
SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|googleaccessid|awsaccesskeyid|signature|expires|policy|key-pair-id|api_?key"
    r"|.*token.*|.*secret.*|.*password.*",
    re.IGNORECASE,
)
"""Parameters that say who may read, not what: a URL that was signed again is still of the same file."""
AZURE = frozenset(
    ("sig", "se", "sp", "st", "sv", "sr", "sip", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv")
)
"""The same in Azure's URLs, which have all of them or none."""
SECRET_HOST, SECRET_QUERY = re.compile(r"(?<=://)[^/\s@'\"]*@"), re.compile(r"\?[^\s'\")>]+")


def url_of(given: object) -> str | None:
    """The URL that was given in place of a path; None for a path.

    A ``Path`` of a URL, which has lost one of its slashes, counts as that URL.
    """
    if isinstance(given, str):
        return given if SCHEME.match(given) else None
    if isinstance(given, os.PathLike) and isinstance(text := os.fspath(given), str):
        if SCHEME.match(text):
            return text
        if (match := OF_A_PATH.match(text)) and not os.path.lexists(match.group(0)):
            return f"{match.group(1)}://{text[match.end() :]}"
    return None


def check_local(text: str) -> str:
    """The path; raises UserError for a URL, where only a local path has a meaning."""
    if url_of(text) is not None:
        raise UserError(
            f"{shown(text)} is a URL, and only files of samples may be given so: give a local path"
        )
    return text


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """The URL for a message: on one line, without a password and without the values of its query."""
    parts = _split(url)
    query = "?..." if parts.query else ""
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}", 300)


def scrubbed(text: str) -> str:
    """A text of others, such as an error's, in which a URL may occur: without passwords and queries, on one line."""
    return printable(SECRET_QUERY.sub("?...", SECRET_HOST.sub("", " ".join(text.split()))), 300)


def identity(url: str) -> str:
    """What the URL names, without who may read it; the cache keeps files by this."""
    parts = _split(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    signing = AZURE if {"sig", "se", "sp"} <= {name for name, _ in given} else ()
    query = [(name, value) for name, value in given if not (SIGNING.fullmatch(name) or name in signing)]
    return urlunsplit(
        (parts.scheme.lower(), parts.netloc.rpartition("@")[2], parts.path, urlencode(query), "")
    )


def file_name(url: str) -> str:
    """The last part of the URL's path, as a file's name."""
    name = unquote(_split(url).path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.+=@ -]", "_", name).strip(". ")[-100:] or "file"


def beside(url: str, suffix: str) -> str:
    """The URL of the file whose name is this one's and a suffix."""
    parts = _split(url)
    return urlunsplit(parts._replace(path=parts.path + suffix))


def local_name(given: str | Path) -> str:
    """The name of a file that is given as a path or a URL."""
    url = url_of(given)
    return Path(given).name if url is None else file_name(url)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:  # such as a bracket that is never closed
        raise UserError(f"{scrubbed(url)} is not a URL: {error}") from None

"""A digest of all sources that may be inlined into a module's kernels."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

IMPORT = re.compile(r"^\s*from\s+(\S+)\s+import\s+(\([^)]*\)|[^\n]*)", re.MULTILINE)
OURS = __name__.partition(".")[0]


class Source(NamedTuple):
    """One file: its digest, and (module, names) of each of its imports as written."""

    digest: bytes
    imports: list[tuple[str, list[str]]]


@cache
def version_of(module: str, path: Path) -> str | None:
    """The module's name and a digest of its source and of all that it imports, directly or not, from its own package or ours.

    Constants and functions of those files are inlined into its kernels. Call this while the module is imported: an editor
    may save a file later, and the old code must not be kept under the new file's digest. None for a module whose source
    cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in sorted(_reachable(module, path)):
            digest.update(_read(file).digest)
    except (OSError, UnicodeDecodeError):
        return None
    return f"{path.stem}-{digest.hexdigest()[:12]}"


def _reachable(module: str, path: Path) -> set[Path]:
    families = {module.partition(".")[0], OURS}
    found, left = {path}, [(module, path)]
    while left:
        name, file = left.pop()
        package = getattr(sys.modules.get(name), "__package__", None) or name.rpartition(".")[0]
        for origin, parts in _read(file).imports:
            base = importlib.util.resolve_name(origin, package) if origin.startswith(".") else origin
            if base.partition(".")[0] not in families:
                continue
            for candidate in (base, *(f"{base}.{part}" for part in parts)):
                where = getattr(sys.modules.get(candidate), "__file__", None)
                if where is not None and (imported := Path(where)) not in found:
                    found.add(imported)
                    left.append((candidate, imported))
    return found


@cache
def _read(path: Path) -> Source:
    content = path.read_bytes()
    imports = [
        (origin, re.findall(r"\w+", names)) for origin, names in IMPORT.findall(content.decode("utf-8"))
    ]
    return Source(hashlib.sha256(content).digest(), imports)

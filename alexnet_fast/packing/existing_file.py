"""The file that exists where a beton is to be written: the same one, so that nothing is to do, or another, which is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..beton.reader import Beton, BetonError, FieldError, sidecar_path
from ..beton.sidecar import names
from ..common.untrusted import printable
from .errors import OutputExists
from .journal import journal_path
from .manifest import Manifest, differing, listed
from .partial_file import partial_path


def finished(path: Path, plan: Manifest, source: str) -> dict[str, Any] | None:
    """The sidecar of the beton at ``path``, if that is the file of ``plan`` by its settings, images and times.

    None if there is no file, or if a packing that was to replace it was started and interrupted.

    Args:
        source: the name of the plan's images in messages.

    Raises:
        OutputExists: another file exists; the message names the difference.
    """
    interrupted = partial_path(path).exists() and journal_path(path).exists()
    if not os.path.exists(path) or interrupted:
        return None
    sidecar = _sidecar(path)
    was, now = sidecar["settings"], plan.settings
    if keys := differing(was, now):
        parts = [
            f"{printable(key)} = {_shown(was.get(key))}, asked for {_shown(now.get(key))}" for key in keys
        ]
        raise OutputExists(f"{path} is finished with {', and '.join(parts)}")
    if other := _other_images(path, sidecar, plan):
        raise OutputExists(f"{path} is finished, and {source} is not what it was packed from: {other}")
    return sidecar


def _sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of a beton; raises OutputExists if it has no settings."""
    try:
        beton = Beton(path)
    except FieldError:
        raise OutputExists(f"{path} exists already, with other fields than this packer writes") from None
    except BetonError:
        raise OutputExists(f"{path} exists already and is not a complete beton") from None
    with beton:
        try:
            sidecar = beton.sidecar
        except BetonError:  # corrupt, or of another file
            sidecar = {}
    name = sidecar_path(path).name
    if sidecar is None:
        raise OutputExists(f"{path} exists already, without a {name} that says what it was packed from")
    if not isinstance(sidecar.get("settings"), dict):
        raise OutputExists(f"{path} exists already, and its {name} does not say what it was packed from")
    return sidecar


def _other_images(path: Path, sidecar: Mapping[str, Any], plan: Manifest) -> str:
    """How the folder's images differ, in words; "" if they do not."""
    modified_ns = path.stat().st_mtime_ns
    touched = [image for image, changed in zip(plan.paths, plan.changed_ns) if changed > modified_ns]
    same = sidecar.get("source_digest") == plan.source_digest()
    if same:
        return f"{listed(touched)} modified since" if touched else ""
    was, now = {*names(sidecar, "paths"), *names(sidecar, "skipped")}, set(plan.paths)
    added, removed = [image for image in plan.paths if image not in was], sorted(was - now)
    changes = ((added, "added"), (removed, "removed"), (touched, "modified since"))
    parts = [f"{printable(listed(images))} {what}" for images, what in changes if images]
    if not parts:
        classes = sidecar.get("classes") != plan.classes
        what = "content, fields or order" if plan.fields or plan.is_from_code else "size or order"
        parts = ["its classes differ" if classes else f"images have another {what}"]
    return ", ".join(parts)


def _shown(value: object) -> str:
    return "none" if value is None else printable(str(value))

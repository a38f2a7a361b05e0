"""What stands where a beton is to go: the very file, and nothing is left to do, or another, which is not replaced unasked."""

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
    """The sidecar of the beton at ``path`` that is what ``plan`` makes, as far as settings, images and times tell.

    None where nothing is there, or what is there was given up before: a packing was begun over it and interrupted.

    Args:
        source: what messages call the plan's images.

    Raises:
        OutputExists: another file is there; the difference is named.
    """
    interrupted = partial_path(path).exists() and journal_path(path).exists()
    if not os.path.exists(path) or interrupted:
        return None
    told = _told(path)
    was, now = told["settings"], plan.settings
    if keys := differing(was, now):
        parts = [f"{printable(key)} = {_said(was.get(key))}, asked for {_said(now.get(key))}" for key in keys]
        raise OutputExists(f"{path} is finished with {', and '.join(parts)}")
    if other := _other_images(path, told, plan):
        raise OutputExists(f"{path} is finished, and {source} is not what it was packed from: {other}")
    return told


def _told(path: Path) -> dict[str, Any]:
    """The sidecar of a beton, with settings in it."""
    try:
        beton = Beton(path)
    except FieldError:
        raise OutputExists(f"{path} is there already, with other fields than this packer writes") from None
    except BetonError:
        raise OutputExists(f"{path} is there already and is no whole beton") from None
    with beton:
        try:
            told = beton.sidecar
        except BetonError:  # damaged, or another file's
            told = {}
    sidecar = sidecar_path(path).name
    if told is None:
        raise OutputExists(f"{path} is there already, without a {sidecar} that tells what it was packed from")
    if not isinstance(told.get("settings"), dict):
        raise OutputExists(
            f"{path} is there already, and its {sidecar} does not tell what it was packed from"
        )
    return told


def _other_images(path: Path, told: Mapping[str, Any], plan: Manifest) -> str:
    """What is different about the folder, in words; "" where nothing is."""
    modified_ns = path.stat().st_mtime_ns
    touched = [image for image, changed in zip(plan.paths, plan.changed_ns) if changed > modified_ns]
    same = told.get("source_digest") == plan.source_digest()
    if same:
        return f"{listed(touched)} modified since" if touched else ""
    was, now = {*names(told, "paths"), *names(told, "skipped")}, set(plan.paths)
    added, removed = [image for image in plan.paths if image not in was], sorted(was - now)
    changes = ((added, "added"), (removed, "removed"), (touched, "modified since"))
    parts = [f"{printable(listed(images))} {what}" for images, what in changes if images]
    if not parts:
        classes = told.get("classes") != plan.classes
        parts = ["its classes are others" if classes else "images have another size or order"]
    return ", ".join(parts)


def _said(value: object) -> str:
    return "none" if value is None else printable(str(value))

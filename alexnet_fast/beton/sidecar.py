"""Reads the json next to a beton: what it was packed from, how, and the checksum of every sample."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .reader import Beton, BetonError, sidecar_path

PART, WHOLE = "part", "whole"
"""The settings of a part of a set: which it is, as "3/8", and a digest of the images of all parts."""
IMAGES_CRC32, FIELDS_CRC32 = "crc32", "fields_crc32"
"""Checksums of the images, and of the payloads of other fields that follow each."""


def checksums(document: Mapping[str, Any], beton: Beton, key: str = IMAGES_CRC32) -> np.ndarray | None:
    """CRC-32 of every sample's payload by the sidecar: (N,) uint32; None if it has none.

    Raises:
        BetonError: they are not hex digits, or of another number of samples.
    """
    digits = document.get(key)
    if digits is None:
        return None
    try:
        found = np.frombuffer(bytes.fromhex(digits), ">u4").astype(np.uint32)
    except (TypeError, ValueError) as error:
        raise BetonError(
            f"{sidecar_path(beton.path)}: its {key} are not hex digits ({error}); pack again"
        ) from None
    if len(found) != beton.num_samples:
        raise BetonError(
            f"{sidecar_path(beton.path)} has checksums of {len(found)} samples, {beton.path} holds {beton.num_samples}; pack again"
        )
    return found


def samples_checksum(document: Mapping[str, Any] | None) -> str:
    """CRC-32 of the list of all samples' checksums, eight hex digits; empty if there is no list."""
    digits = (document or {}).get("crc32")
    return f"{zlib.crc32(digits.encode()):08x}" if isinstance(digits, str) else ""


def packed_part(document: Mapping[str, Any] | None) -> tuple[str, int, int] | None:
    """Of a file that is a part of a set: what identifies the set, which part it is, from 1 on, and of how many; else None."""
    settings = facts(document, "settings")
    whole, part = settings.get(WHOLE), settings.get(PART)
    if not isinstance(whole, str) or not isinstance(part, str):
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", part, re.ASCII)
    return (whole, int(found[1]), int(found[2])) if found else None


def names(document: Mapping[str, Any] | None, key: str) -> list[str]:
    """The list of names under ``key`` of a sidecar; empty if there is none, or something else."""
    found = (document or {}).get(key)
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else []


def facts(document: object, key: str) -> dict[str, Any]:
    """The table under ``key`` of a part of a sidecar, without values that are lists or tables."""
    found = document.get(key) if isinstance(document, dict) else None
    table = found if isinstance(found, dict) else {}
    return {name: value for name, value in table.items() if not isinstance(value, (dict, list))}

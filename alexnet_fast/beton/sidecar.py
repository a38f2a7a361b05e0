"""Reading the json beside a beton: what it was packed from, how, and the checksum of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .reader import Beton, BetonError, sidecar_path


def checksums(document: Mapping[str, Any], beton: Beton) -> np.ndarray | None:
    """CRC-32 of every sample's payload as the sidecar tells them: (N,) uint32; None where it does not.

    Raises:
        BetonError: it tells them of another number of samples.
    """
    told = document.get("crc32")
    if told is None:
        return None
    try:
        found = np.frombuffer(bytes.fromhex(told), ">u4").astype(np.uint32)
    except (TypeError, ValueError) as error:
        raise BetonError(
            f"{sidecar_path(beton.path)}: its crc32 are no hex digits ({error}); pack again"
        ) from None
    if len(found) != beton.num_samples:
        raise BetonError(
            f"{sidecar_path(beton.path)} has checksums of {len(found)} samples, {beton.path} holds {beton.num_samples}; pack again"
        )
    return found


def names(document: Mapping[str, Any] | None, key: str) -> list[str]:
    """The list of names that a sidecar has under ``key``; empty where it has none, or something else there."""
    told = (document or {}).get(key)
    return told if isinstance(told, list) and all(isinstance(name, str) for name in told) else []


def facts(document: object, key: str) -> dict[str, Any]:
    """The table that a part of a sidecar has under ``key``, as far as its values are plain: text, numbers, true, false, null."""
    told = document.get(key) if isinstance(document, dict) else None
    table = told if isinstance(told, dict) else {}
    return {name: value for name, value in table.items() if not isinstance(value, (dict, list))}

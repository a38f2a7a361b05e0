"""The plan of a packing: its settings and images; an interrupted packing resumes only with the same plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..beton.target_fields import FLOAT, INT, TargetField
from .columns import LABEL as LABEL_FIELD
from .columns import Column, columns_of
from .encode import Encoding, encoder_versions
from .errors import InputChanged
from .layout import Fields
from .sources import Identity, Reader, Source
from .sources.listing import Ignored

REPORTED_ONLY = ("ignored", "in_several_classes")
"""Fields on which no byte of the file depends, so the journal does not keep them."""
NOT_LOGGED = (*REPORTED_ONLY, "columns")
"""Fields that the journal does not keep: of the columns their digests are enough."""
FROM_CODE = "dataset"
"""The source of what code packs (``dataset.pack_dataset``)."""
FIELDS = "fields"
"""The setting that says what the further fields are."""


LABEL = "label"
"""The setting that says what a label is."""


class Image(NamedTuple):
    """One image to pack: its key, and its size in bytes and modification time when the packing was planned."""

    key: str
    size: int
    changed_ns: int

    @property
    def identity(self) -> Identity:
        return Identity(self.size, self.changed_ns)


@dataclass(frozen=True)
class Manifest:
    """Everything on which the bytes of the finished file depend."""

    settings: dict[str, Any]
    encoder: dict[str, str]
    """The programs whose versions may change the bytes: name -> version."""
    classes: list[str]
    paths: list[str]
    """Keys of the images; for a folder, their paths below it."""
    labels: Sequence[float]
    sizes: list[int]
    """Of the images, in bytes."""
    changed_ns: list[int]
    """When each image was last modified."""
    ignored: Ignored = field(default_factory=Ignored, compare=False)
    """What else the folder contains: reported in the sidecar; a change does not stop a resume."""
    in_several_classes: list[str] = field(default_factory=list, compare=False)
    fields: dict[str, str] = field(default_factory=dict)
    """Digests of the values of further fields, by their names; absent from a journal if there are none, as in version 0.1."""
    columns: tuple[Column, ...] = field(default=(), compare=False)
    """Further fields; a column of the name "label" is in the place of ``labels``, which are then empty."""

    @classmethod
    def of(cls, split: Source, encoding: Encoding, settings: Mapping[str, object]) -> Manifest:
        """The plan for a split; reads every image's size and time.  Raises InputUnreadable if that fails."""
        sizes, changed_ns, reader = [], [], split.reader
        for key in split.keys:
            size, modified_ns = reader.identity(key)
            sizes.append(size)
            changed_ns.append(modified_ns)
        # Version 0.1 has only ints, and does not name them.
        has_floats = any(isinstance(label, float) for label in split.labels[:1])
        label = {LABEL: FLOAT.name} if has_floats else {}
        columns = columns_of(split)
        fields = {FIELDS: {each.name: str(each.kind) for each in columns}} if columns else {}
        as_read = json.loads(
            json.dumps({**asdict(encoding), **settings, **label, **fields})
        )  # in the form that a journal returns
        encoder = encoder_versions(encoding)
        return cls(
            as_read,
            encoder,
            split.classes,
            split.keys,
            split.labels,
            sizes,
            changed_ns,
            split.ignored,
            split.in_several_classes,
            {each.name: each.digest() for each in columns},
            columns,
        )

    @property
    def is_from_code(self) -> bool:
        """Whether a size is the digest of a content."""
        return bool(self.settings.get("source") == FROM_CODE)

    @property
    def types(self) -> Fields:
        """Names and types of the fields behind the image, in the file's order."""
        label = [(LABEL_FIELD, self.target.stored)] if len(self.labels) else []
        return [*label, *((each.name, each.kind) for each in self.columns)]

    def values(self, i: int) -> tuple[float | bytes, ...]:
        """What image i has in these fields."""
        if not self.columns:
            return (self.labels[i],)
        label = (self.labels[i],) if len(self.labels) else ()
        return (*label, *(each.values[i] for each in self.columns))

    @property
    def target(self) -> TargetField:
        """What a label is in the file."""
        return target_of(self.settings)

    def to_json(self) -> bytes:
        """The form in the journal."""
        kept = {name: value for name, value in vars(self).items() if name not in NOT_LOGGED}
        if not self.fields:
            del kept["fields"]
        return json.dumps(kept, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, document: bytes) -> Manifest:
        """The plan of a form that ``to_json`` returned."""
        return cls(**json.loads(document))

    def source_digest(self) -> str:
        """A digest of the images' paths, labels, sizes and further fields, in their order; not of their times, which a copy of the
        folder changes."""
        fields = [self.fields] if self.fields else []
        listed = json.dumps(
            [self.classes, self.paths, self.labels, self.sizes, *fields], separators=(",", ":")
        )
        return hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()

    def check_same(self, now: Manifest, place: str, source: str) -> None:
        """Check that a packing that was started with this plan may resume with ``now``.

        Args:
            place: the output's name in messages.
            source: the images' name in messages.

        Raises:
            InputChanged: names the difference.
        """
        or_fresh = "or start from scratch with --fresh"
        if other := _differing(self.settings, now.settings):
            raise InputChanged(
                f"the packing into {place} was interrupted and was started with other settings: {other}",
                f"give the same ones to resume, {or_fresh}",
            )
        if other := _differing(self.encoder, now.encoder):
            raise InputChanged(
                f"the packing into {place} was interrupted and was started with another encoder, which may write other bytes: {other}",
                f"install the same one to resume, {or_fresh}",
            )
        if other := self._other_images(now):
            raise InputChanged(
                f"{source} has changed since the packing into {place} was interrupted: {other}",
                f"restore it to resume, {or_fresh}",
            )

    def check_unchanged(self, reader: Reader) -> None:
        """Check, after all images were read, that they are still those of the plan.

        Later this could not be detected: an image that changed after it was read, and before the file was finished, is older than
        the file.

        Raises:
            InputChanged: names the images that changed.
            InputUnreadable: see ``Reader.identity``.
        """
        planned = zip(self.paths, zip(self.sizes, self.changed_ns))
        if changed := [key for key, was in planned if reader.identity(key) != was]:
            raise changed_meanwhile(reader.place, changed)

    def _other_images(self, now: Manifest) -> str:
        """How the images of ``now`` differ, in words; "" if they do not."""
        if self == now:
            return ""
        was = dict(zip(self.paths, zip(self.sizes, self.changed_ns)))
        found = dict(zip(now.paths, zip(now.sizes, now.changed_ns)))
        added = [path for path in now.paths if path not in was]
        removed = [path for path in self.paths if path not in found]
        resized = [path for path in self.paths if path in found and found[path][0] != was[path][0]]
        touched = [
            path
            for path in self.paths
            if path in found and found[path][0] == was[path][0] and found[path] != was[path]
        ]
        parts = [
            f"{listed(paths)} {what}"
            for paths, what in (
                (added, "added"),
                (removed, "removed"),
                (
                    resized,
                    "with another content" if self.is_from_code else "of another size",
                ),
                (touched, "modified"),
            )
            if paths
        ]
        if not parts and self.classes != now.classes:
            others = sorted(set(self.classes) ^ set(now.classes))
            parts = [f"its classes differ{f' ({others[0]!r})' if others else ''}"]
        if not parts and self.paths == now.paths and self.fields != now.fields:
            parts = [f"the values of {' and '.join(map(repr, differing(self.fields, now.fields)))} differ"]
        if not parts and (self.paths, self.labels) != (now.paths, now.labels):
            parts = ["its images have another order"]
        return ", ".join(parts)


def target_of(settings: Mapping[str, Any]) -> TargetField:
    """What a label is in a file that was packed with these settings."""
    return FLOAT if settings.get(LABEL) == FLOAT.name else INT


def changed_meanwhile(place: str, paths: list[str]) -> InputChanged:
    """The error for images that changed, so that it is not known which of their pixels were packed."""
    return InputChanged(
        f"{listed(paths)} of {place} changed while the folder was packed",
        "let nothing write into it, and start from scratch with --fresh",
    )


def differing(was: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The keys whose values differ."""
    return [key for key in {**was, **now} if was.get(key) != now.get(key)]


def _differing(was: Mapping[str, object], now: Mapping[str, object]) -> str:
    return ", ".join(f"{key} was {was.get(key)} and is {now.get(key)}" for key in differing(was, now))


def listed(paths: list[str]) -> str:
    """'1 image (a/b.JPEG)', '3 images (a/b.JPEG and 2 more)'."""
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return f"{len(paths):,} image{'s' if more else ''} ({paths[0]}{more})"

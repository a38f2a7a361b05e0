"""Compare a beton with the source that it was packed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..beton.classes import class_names
from ..beton.reader import Beton, sidecar_path
from ..beton.sidecar import PART, facts, names
from ..beton.target_fields import FLOAT
from ..common.untrusted import printable
from ..errors import UserError
from ..packing import corrupt
from ..packing.columns import LABEL, field_types
from ..packing.encode import Encoding, encode_item, encoder_versions
from ..packing.errors import UnreadableImage
from ..packing.manifest import FIELDS, FROM_CODE, Manifest, target_of
from ..packing.parts import PartOf, SourcePart
from ..packing.sources import FOLDER, SOURCES, Dataset, Reader, Source, TakesFields
from .coefficients import coefficients, same_coefficients

MODES = ("reencode", "raw", "lossless")
RANGES = {
    "max_resolution": (0, 1 << 31),
    "min_side": (0, 1 << 31),
    "quality": (1, 100),
    "restart_mcus": (0, 1 << 31),
}


@dataclass(frozen=True)
class PackedSource:
    """The images that a beton was packed from, and how.

    Attributes:
        dataset, split: where they are.
        reader: reads them.
        paths: the key of each sample.
        classes: the names of labels 0, 1, ...; empty if labels are numbers.
        known: keys of all images that the packer read.
        converted: keys of the images that were converted.
        settings: the packer's.
        digest: of the images that were packed (``Manifest.source_digest``); None if the json does not have it.
        encoder: the packer's.
        same_encoder: whether encoding an image again here gives the packer's bytes.
    """

    dataset: Dataset
    split: str
    reader: Reader
    paths: list[str]
    classes: list[str]
    known: set[str]
    converted: set[str]
    settings: dict[str, Any]
    digest: str | None
    encoding: Encoding
    encoder: str
    same_encoder: bool

    @classmethod
    def of(cls, beton: Beton, dataset: Dataset) -> PackedSource:
        """The source of ``beton`` in ``dataset``; a dataset of folders may also be the split's own folder of classes.

        Raises:
            UserError: the sidecar lacks something or contains something impossible, or there is no such dataset.
        """
        sidecar = beton.sidecar or {}
        paths, classes, settings = (
            names(sidecar, "paths"),
            class_names(beton, sidecar),
            sidecar.get("settings"),
        )
        fields = facts(settings, FIELDS)
        if isinstance(settings, dict) and settings.get("source") == FROM_CODE:
            raise UserError(
                f"{beton.path} was packed by code, with pack_dataset; verify it without --source, or call pack_dataset again, which "
                "compares every item"
            )
        if (
            len(paths) != beton.num_samples
            or not isinstance(settings, dict)
            or not (classes or target_of(settings) == FLOAT or LABEL in fields)
        ):
            raise UserError(
                f"{beton.path} cannot be compared with {dataset.reader('').place}: no {beton.path.name}.json says what it was packed from; "
                "verify it without --source"
            )
        encoding, encoder = _encoding(settings, beton), facts(sidecar, "encoder")
        split, converted = settings.get("split") or "", sidecar.get("converted", {})
        if not isinstance(converted, dict):
            raise _impossible(beton, f"its converted images are {_shown(converted)}, expected an object")
        for named in (split, *paths):
            if not isinstance(named, str) or not _is_below(named):
                raise _impossible(beton, f"{_shown(named)} is not a path below the folder that was packed")
        if (kind := settings.get("source", FOLDER)) not in tuple(SOURCES):
            raise _impossible(beton, f"its source is {_shown(kind)}, expected {' or '.join(SOURCES)}")
        if kind != dataset.kind:
            flags = f"without --{dataset.kind}" if kind == FOLDER else _flags(str(kind))
            raise UserError(
                f"{beton.path} was packed from {_a(kind)}, not from {_a(dataset.kind)}; verify it {flags}"
            )
        if fields and isinstance(dataset, TakesFields):
            dataset = dataset.with_fields(field_types(fields, f"{sidecar_path(beton.path)}, {FIELDS}"))
        split = dataset.packed_split(split)
        return cls(
            dataset,
            split,
            dataset.reader(split),
            paths,
            classes,
            {*names(sidecar, "skipped"), *paths},
            set(converted),
            settings,
            sidecar.get("source_digest"),
            encoding,
            printable(str(encoder)) if encoder else "an encoder that its json does not name",
            encoder == encoder_versions(encoding),
        )

    def unchecked(self) -> str:
        """What cannot be compared here, in words; "" if everything can."""
        if self.same_encoder:
            return ""
        now = encoder_versions(self.encoding)
        return f"pixels of encoded images against their source: packed with {self.encoder}, this is {now}"

    def fault(self, index: int, stored: bytes, label: float | list[float], size: tuple[int, int]) -> str:
        """How a sample differs from its source, in words; "" if it does not."""
        path = self.paths[index]
        if other := self._label_fault(path, label):
            return other
        try:
            if self.encoding.mode == "lossless" and path not in self.converted:
                same = same_as_source(stored, self.reader.read(path).image)
                return "" if same else "its coefficients are not its source's"
            again = encode_item(self.reader, path, self.encoding)
        except (UnreadableImage, ValueError, OSError) as error:
            return f"its source: {error.what if isinstance(error, UnreadableImage) else error}"
        if self.same_encoder:
            what = "pixels" if self.encoding.mode == "raw" else "bytes"
            return "" if again.payload == stored else f"its {what} are not its source's, encoded again"
        if (again.width, again.height) != size:
            return f"it has {size[0]} x {size[1]} pixels, its source, encoded again, {again.width} x {again.height}"
        return ""

    def _label_fault(self, path: str, label: float | list[float]) -> str:
        """How a label differs from its source's, in words; "" if it does not.  Fields, and a vector among them, have a digest in ``changed``."""
        if isinstance(label, list):
            return ""
        expected, what = (
            self.dataset.class_of(self.split, path),
            "folder" if self.dataset.kind == FOLDER else "source",
        )
        if not self.classes:
            try:
                same = expected is not None and float(expected) == label
            except ValueError:
                same = False
            return "" if same else f"its label is {label}, its {what} {expected or 'has no such image'}"
        named = self.classes[int(label)] if 0 <= label < len(self.classes) else None
        if named is None or named != expected:
            return f"its label {int(label)} is {named or 'no class'}, its {what} {expected or 'has no such image'}"
        return ""

    def changed(self) -> str:
        """Why the packer would not accept the file as finished although every sample equals its source; "" if it would.

        A file of version 0.1 may contain an image that replaced another while the folder was packed.
        """
        if self.digest is None or "shuffle_seed" not in self.settings:
            return ""  # the order is another program's and cannot be repeated
        split, seed, limit = (
            self.dataset.open(self.split, self.classes),
            self.settings["shuffle_seed"],
            self.settings.get("limit"),
        )
        if isinstance(seed, int):
            split = split.shuffled(seed)
        if isinstance(limit, int):
            split = split.limited(limit)
        split = self._part(split)
        if Manifest.of(split, self.encoding, {}).source_digest() == self.digest:
            return ""
        what = "sizes, fields" if facts(self.settings, FIELDS) else "sizes"
        return f"the images of {self.reader.place} have other {what} or another order than when they were packed; pack again with --fresh"

    def _part(self, split: Source) -> Source:
        """The part of a set that the file is; all of it if it is none."""
        if (text := self.settings.get(PART)) is None:
            return split
        return SourcePart.of(split, PartOf.parse(str(text)))

    def faults_of_the_file(self) -> list[str]:
        """Images of the folder that are not in the file, and differing classes."""
        try:
            found = self.dataset.open(self.split, self.classes)
        except UserError as error:
            return [str(error)]
        if self.dataset.kind == FOLDER and self.classes != sorted(self.classes):
            return [f"its classes are not in the folder's order: {', '.join(self.classes[:3])} ..."]
        in_part = self.settings.get("limit") or self.settings.get(PART)
        missing = [] if in_part else [key for key in found.keys if key not in self.known]
        return [f"{self.reader.name(key)} is not in the file" for key in missing]


def same_as_source(stored: bytes, source: bytes) -> bool:
    """Whether a stored JPEG has its source's coefficients; harmless faults of the source, which the packer ignores, do not matter.

    Raises:
        ValueError: one is corrupt.
    """

    def warning(jpeg: bytes) -> str:
        try:
            coefficients(jpeg)
        except ValueError as error:
            return str(error)
        return ""

    try:
        return same_coefficients(stored, source)
    except ValueError as error:
        fault, tidy = corrupt.persisting(source, warning)
        if fault or tidy == source:
            raise ValueError(fault or str(error)) from None
    return same_coefficients(stored, tidy)


def _encoding(settings: dict[str, Any], beton: Beton) -> Encoding:
    """The packer's encoding by its settings; raises UserError for impossible ones."""
    given = {key: settings[key] for key in ("mode", *RANGES, "optimize") if key in settings}
    for key, value in given.items():
        if key == "mode":
            fits, expected = value in MODES, ", ".join(MODES)
        elif key == "optimize":
            fits, expected = isinstance(value, bool), "true or false"
        else:
            low, high = RANGES[key]
            fits = type(value) is int and low <= value <= high
            expected = f"a whole number from {low} to {high}"
        if not fits:
            raise _impossible(beton, f"its setting {key} is {_shown(value)}, expected {expected}")
    try:
        return Encoding(**given)
    except UserError as error:
        raise _impossible(beton, str(error)) from None


def _is_below(path: str) -> bool:
    """Whether a relative path stays inside the folder from which it starts."""
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path


def _shown(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else printable(repr(value))


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _flags(kind: str) -> str:
    """How to name a dataset of a kind, in words."""
    source = SOURCES[kind]
    if source.alone or not source.flag_help:
        return f"with --{kind if source.flag_help else 'source'} {source.metavar}"
    return f"with --{kind} {source.metavar} and --source DIR"


def _impossible(beton: Beton, what: str) -> UserError:
    return UserError(f"{sidecar_path(beton.path)}: {what}; pack again, or verify without --source")

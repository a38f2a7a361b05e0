"""Compare a beton with the folder that it was packed from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..beton.encode import Encoding, encode_file, encoder_versions
from ..beton.errors import UnreadableImage
from ..beton.folder import scan_folder
from ..beton.reader import Beton
from ..beton.sidecar import names
from ..errors import UserError
from .coefficients import same_coefficients

ENCODING = ("mode", "max_resolution", "min_side", "quality", "restart_mcus", "optimize")


@dataclass(frozen=True)
class Source:
    """The images that a beton was packed from, and how.

    Attributes:
        root: folder of classes.
        paths: of each sample, below the root.
        classes: what labels mean.
        known: paths of all images that the packer looked at.
        converted: of those that were not what they are stored as.
        limited: whether the packer was told to leave the rest out.
        encoder: the packer's.
        same_encoder: whether encoding an image again here gives the packer's bytes.
    """

    root: Path
    paths: list[str]
    classes: list[str]
    known: set[str]
    converted: set[str]
    limited: bool
    encoding: Encoding
    encoder: str
    same_encoder: bool

    @classmethod
    def of(cls, beton: Beton, folder: Path) -> Source:
        """The source of ``beton`` below ``folder``: a folder of classes, or the one that holds train/ and val/.

        Raises:
            UserError: the sidecar does not tell enough, or there is no such folder.
        """
        told = beton.sidecar or {}
        paths, classes, settings = names(told, "paths"), names(told, "classes"), told.get("settings")
        if len(paths) != beton.num_samples or not classes or not isinstance(settings, dict):
            raise UserError(
                f"{beton.path} cannot be compared with {folder}: no {beton.path.name}.json tells what it was packed from; "
                "verify it without --source"
            )
        split = settings.get("split")
        root = folder / split if isinstance(split, str) and (folder / split).is_dir() else folder
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; give --source the folder that was packed")
        encoding = Encoding(**{key: settings[key] for key in ENCODING if key in settings})
        return cls(
            root,
            paths,
            classes,
            {*names(told, "skipped"), *paths},
            set(told.get("converted") or ()),
            bool(settings.get("limit")),
            encoding,
            str(told.get("encoder", "an encoder that its json does not tell")),
            told.get("encoder") == encoder_versions(encoding),
        )

    def how(self) -> str:
        """What of each sample is compared with its source, in words."""
        kept = "coefficients equal its source's" if self.encoding.mode == "lossless" else ""
        if not self.same_encoder:
            return kept or "size equals its source's, encoded again"
        encoded = "bytes equal its source's, encoded again"
        return f"{kept} or, where it was converted, {encoded}" if kept else encoded

    def unchecked(self) -> str:
        """What cannot be compared here, in words; "" where everything is."""
        if self.same_encoder:
            return ""
        now = encoder_versions(self.encoding)
        return f"pixels of encoded images against their source: packed with {self.encoder}, this is {now}"

    def fault(self, index: int, stored: bytes, label: int, size: tuple[int, int]) -> str:
        """What is different between a sample and its source, in words; "" where nothing is."""
        path = self.paths[index]
        named = self.classes[label] if 0 <= label < len(self.classes) else None
        if named != path.split("/")[0]:
            return f"its label {label} is {named or 'no class'}, its folder {path.split('/')[0]}"
        file = self.root / path
        try:
            if self.encoding.mode == "lossless" and path not in self.converted:
                return (
                    ""
                    if same_coefficients(stored, file.read_bytes())
                    else "its coefficients are not its source's"
                )
            again = encode_file(file, self.encoding)
        except (UnreadableImage, ValueError, OSError) as error:
            return f"its source: {error.what if isinstance(error, UnreadableImage) else error}"
        if self.same_encoder:
            return "" if again.payload == stored else "its bytes are not its source's, encoded again"
        if (again.width, again.height) != size:
            return f"it has {size[0]} x {size[1]} pixels, its source, encoded again, {again.width} x {again.height}"
        return ""

    def faults_of_the_whole(self) -> list[str]:
        """Images of the folder that are not in the file, and classes that are others."""
        try:
            found = scan_folder(self.root, self.classes)
        except UserError as error:
            return [str(error)]
        if self.classes != sorted(self.classes):
            return [f"its classes are not in the folder's order: {', '.join(self.classes[:3])} ..."]
        missing = [] if self.limited else [path for path in found.paths if path not in self.known]
        return [f"{self.root / path} is not in the file" for path in missing]

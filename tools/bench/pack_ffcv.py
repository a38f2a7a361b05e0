"""Write a beton with FFCV's own DatasetWriter, in the interpreter that has FFCV.

    python -m bench.pack_ffcv LISTING OUT jpeg|raw SIDE QUALITY WORKERS

LISTING is a JSON file: root, paths (relative to it), labels. Images are shrunk to SIDE (their longest one) by
FFCV's own resizer. Exits with ``ABSENT`` where FFCV is not installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ABSENT = 3


class Photos:
    """The listing as an indexable dataset of (RGB image, label)."""

    def __init__(self, listing: dict[str, Any]) -> None:
        self.root, self.paths, self.labels = Path(listing["root"]), listing["paths"], listing["labels"]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        # An exception here would make FFCV's writer wait forever; our packer has read every image before.
        with Image.open(self.root / self.paths[index]) as image:
            return image.convert("RGB"), self.labels[index]


def main(listing: str, out: str, mode: str, side: str, quality: str, workers: str) -> int:
    try:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
    except (ImportError, OSError) as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return ABSENT
    write_mode = {"jpeg": "jpg", "raw": "raw"}[mode]
    image = RGBImageField(write_mode=write_mode, max_resolution=int(side), jpeg_quality=int(quality))
    writer = DatasetWriter(out, {"image": image, "label": IntField()}, num_workers=int(workers))
    writer.from_indexed_dataset(Photos(json.loads(Path(listing).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Where the attacks find images if no folder is given."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_fast.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Real images if they are there; otherwise those that `make quickstart` makes.
FOLDERS = (
    Path(os.environ.get("ALEXNET_FAST_DATA", ROOT.parent / "shared/data"), "imagenet-samples"),
    ROOT / "data/quickstart-images",
)
EITHER = f"the first that is there of {', '.join(map(str, FOLDERS))}"


def found_folder(flag: str) -> Path:
    """A folder with train/<class>/*.JPEG.

    Args:
        flag: the flag with which the user can give one.

    Raises:
        UserError: there is none.
    """
    for folder in FOLDERS:
        if (folder / "train").is_dir():
            return folder
    raise UserError(
        f"there is neither {' nor '.join(map(str, FOLDERS))}: give {flag} FOLDER, which has train/<class>/*, "
        "or run make quickstart, which makes the last"
    )

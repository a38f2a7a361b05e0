"""Kill a packing at random moments, and fill its disk: resumed each time, the file must equal that of an uninterrupted packing.

    PYTHONPATH=.:tests:tools python -m stress.kill_packing [--tries 30] [--seed 0] [--data FOLDER]

The disk is a small tmpfs in a separate mount namespace, which needs root, or permission to make a user namespace.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from alexnet_fast.common.cli import Defaults, file_path
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.packing.journal import images_logged

from .sample_images import EITHER, ROOT, found_folder

FULL_AT = (0.2, 0.5, 0.8, 0.99)  # of the room that the file takes: sizes of the disk, one after another


@dataclass
class Kills:
    """What happened to packings that were killed."""

    kills: int = 0
    resumed: int = 0
    """Starts that found packed images and resumed after them."""
    packed: int = 0
    """Packings that finished, each after any number of kills."""
    identical: int = 0
    """Those of them whose file and sidecar equal those of an uninterrupted packing."""
    left_alone_s: float = 0.0
    seed: int = 0

    @property
    def survived(self) -> bool:
        return self.packed == self.identical > 0


@dataclass
class Fills:
    """What happened to a packing whose disk was full."""

    full: int = 0
    """How often it was refused in one sentence, with code 2, and the unfinished file was kept."""
    identical: bool = False
    said: str = ""
    """The first refusal."""

    @property
    def survived(self) -> bool:
        return self.full > 0 and self.identical


class Packing:
    """The command that is attacked: one split of a folder, into a new folder each time."""

    def __init__(self, data: Path, *options: object) -> None:
        self._command = [
            sys.executable,
            ROOT / "tools/write_beton.py",
            "--data",
            data,
            "--split",
            "train",
            *options,
        ]

    def start(self, out: Path, workers: int) -> subprocess.Popen[str]:
        """Start it in its own process group."""
        return subprocess.Popen(
            [*map(str, self._command), "--out", str(out), "--workers", str(workers)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, out: Path, workers: int) -> tuple[int, str]:
        """Wait for its end; returns its exit code and what it printed."""
        process = self.start(out, workers)
        said, _ = process.communicate()
        return process.returncode, said


def digests(out: Path) -> tuple[str, str]:
    """SHA-256 of the beton and of its sidecar."""
    beton, sidecar = (
        hashlib.sha256((out / f"train.beton{end}").read_bytes()).hexdigest() for end in ("", ".json")
    )
    return beton, sidecar


def kill_at_random(
    packing: Packing,
    scratch: Path,
    tries: int,
    seed: int,
    workers: Sequence[int] = (1, 2, 3),
    say: Callable[[str], None] = lambda sentence: None,
) -> Kills:
    """Start the packing until it finishes, and SIGKILL its process group ``tries`` times at random moments of its run time.

    Every start has another number of workers.  Every other one is killed as soon as it has logged images, so that the
    next resumes there.  If it finishes before all tries are used, the next packing starts in another folder.
    """
    chance, found = random.Random(seed), Kills(seed=seed)
    begun = time.monotonic()
    left_alone(packing, scratch / "alone", chance.choice(workers))
    found.left_alone_s = time.monotonic() - begun
    expected = digests(scratch / "alone")
    starts = 0
    while found.kills < tries or not found.packed:
        out = scratch / f"attacked-{found.packed}"
        while True:
            logged = images_logged(out / "train.beton")
            found.resumed += logged > 0
            process = packing.start(out, chance.choice(workers))
            starts += 1
            moment_s = chance.uniform(0, found.left_alone_s) if found.kills < tries else None
            if moment_s is not None and starts % 2:
                while images_logged(out / "train.beton") == logged and process.poll() is None:
                    time.sleep(0.01)
                moment_s = 0 if process.returncode is None else None
            try:
                said, _ = process.communicate(timeout=moment_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                found.kills += 1
                continue
            if process.returncode:
                raise RuntimeError(
                    f"after {found.kills} kills (seed {seed}) a start ended with {process.returncode}: {said}"
                )
            break
        found.packed += 1
        same = digests(out) == expected and sorted(os.listdir(out)) == ["train.beton", "train.beton.json"]
        found.identical += same
        say(f"packing {found.packed}, {found.kills} kills so far: {'identical' if same else 'NOT the same'}")
    return found


def fill_up(
    packing: Packing, alone: Path, disk: Path, parts: Sequence[float] = FULL_AT, workers: int = 2
) -> Fills:
    """Pack on a disk with room for a part of the file until it is full, enlarge the disk, and so on; at the end all of it fits.

    Args:
        alone: the folder of an uninterrupted packing.
        disk: an empty folder, on which a tmpfs is mounted: needs root, in a separate mount namespace.
    """
    found = Fills()
    whole_kb = (alone / "train.beton").stat().st_blocks // 2
    for k, part in enumerate((*parts, 2)):
        option = f"size={round(part * whole_kb)}k" + (",remount" if k else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(disk)], check=True)
        code, said = packing.run(disk / "out", workers)
        sentence = said.strip().splitlines()[-1] if said.strip() else ""
        if code == 2 and re.search("No space left on device.*MB more are needed.*make room", sentence):
            found.full += (disk / "out/train.beton.partial").exists() and "Traceback" not in said
            found.said = found.said or sentence
        elif code:
            raise RuntimeError(f"on a disk of {part:.0%} of the file it ended with {code}: {said}")
    found.identical = digests(disk / "out") == digests(alone)
    subprocess.run(["umount", str(disk)], check=True)
    return found


def left_alone(packing: Packing, out: Path, workers: int) -> None:
    """Pack without an attack.

    Raises:
        UserError: the packing failed.
    """
    code, said = packing.run(out, workers)
    if code:
        last = (said.strip().splitlines() or ["it printed nothing"])[-1].removeprefix("error: ")
        raise UserError(f"the packing without an attack ended with code {code}: {last}")


def own_mounts() -> list[str]:
    """A command that runs another one in a separate mount namespace.

    Raises:
        UserError: that is not allowed here.
    """
    through = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    try:
        with tempfile.TemporaryDirectory() as folder:
            mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
            tried = subprocess.run([*through, *mount], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"no tmpfs can be mounted here ({error}); run this as root") from error
    if tried.returncode:
        raise UserError(f"no tmpfs can be mounted here ({tried.stderr.strip()}); run this as root")
    return through


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0], formatter_class=Defaults
    )
    parser.add_argument(
        "--data",
        type=file_path,
        help=f"folder with train/; without it {EITHER}",
    )
    parser.add_argument("--tries", type=int, default=30, help="kills; 0 = none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="images; without it all")
    parser.add_argument(
        "--full",
        choices=("yes", "no", "inside"),
        default="yes",
        help="attack by a full disk too (inside: in a mount namespace already)",
    )
    parser.add_argument(
        "--full-at",
        type=float,
        nargs="+",
        default=FULL_AT,
        metavar="PART",
        help="of the room that the file takes: sizes of the disk, one after another",
    )
    options = parser.parse_args(argv)
    limit = ["--limit", str(options.limit)] if options.limit else []
    data = options.data or found_folder("--data")
    packing = Packing(data.resolve(), *limit)
    survived = True
    with tempfile.TemporaryDirectory(prefix="attack-packing-") as folder:
        if options.full == "inside":
            return attack_disk(packing, Path(folder), options.full_at)
        if options.tries:
            survived = attack_by_kills(packing, Path(folder), options.tries, options.seed)
    if options.full == "yes":
        again = [sys.executable, "-m", "stress.kill_packing", "--data", data, "--full", "inside", *limit]
        sizes = ["--full-at", *map(str, options.full_at)]
        inside = subprocess.run(
            [*own_mounts(), *map(str, again), *sizes],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tools'}"},
            check=False,
        )
        survived &= inside.returncode == 0
    return 0 if survived else 1


def attack_by_kills(packing: Packing, scratch: Path, tries: int, seed: int) -> bool:
    """Kill, and print the result."""
    kills = kill_at_random(packing, scratch, tries, seed, say=lambda text: print(text, file=sys.stderr))
    print(json.dumps({"attack": "packing, SIGKILL", **asdict(kills), "survived": kills.survived}))
    print(
        f"{kills.kills} kills of the complete process group, {kills.resumed} starts that resumed, "
        f"{kills.identical} of {kills.packed} finished files identical to that of an uninterrupted packing"
    )
    return kills.survived


def attack_disk(packing: Packing, scratch: Path, parts: Sequence[float]) -> int:
    """Fill a disk, and print the result."""
    left_alone(packing, scratch / "alone", 2)
    (scratch / "disk").mkdir()
    fills = fill_up(packing, scratch / "alone", scratch / "disk", parts)
    print(json.dumps({"attack": "packing, full disk", **asdict(fills), "survived": fills.survived}))
    print(
        f"refused on a full disk {fills.full} times of {len(parts)}, in the end "
        f"{'identical to' if fills.identical else 'NOT'} the file of an uninterrupted packing"
    )
    return 0 if fills.survived else 1


if __name__ == "__main__":
    sys.exit(exit_code(main))

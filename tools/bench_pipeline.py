"""Images a second of our pipeline and of each peer that is installed, on the same images, in one interleaved run.

    python tools/bench_pipeline.py --data DIR --threads 1,2 --python dali=/path/to/its/python

**What is measured.** Each pipeline delivers batches of random-resized 224 px crops, half of them flipped, as uint8, to
a consumer that only counts them, from files in the page cache. A round is ``--epochs`` complete epochs: the clock
starts with no batch prefetched and stops when the last batch has arrived. The first round (imports, JIT,
caches) is not counted; then all take turns, A B C A B C ..., so that a machine that slows down does so for all. The
counts of every round (images, sum of labels, shape, dtype) must be the same for all, or the run fails.

**One core is one core, for every contestant.** Each runs in its own long-lived process, and on T threads that process
is pinned to T cores (of different physical cores, where there are) before it imports anything: consumer, decoders,
torchvision's worker processes, DALI's executor, OpenCV's and torch's own pools all share them. Each is also set
to T workers by its own option, and its libraries' pools get T threads, so that none is slowed by oversubscription.
"cores busy" is CPU time over wall time and cores: if it is well under 100 % on one core, another program ran there.

**No prefetching between rounds.** Batches that are ready when a round starts were made while another contestant was
timed. FFCV and torchvision start an epoch with none; DALI is asked for exactly the batches of a round; our loader, whose
threads continue into the next epoch, is opened for each round and closed after it. CPU time between rounds is recorded.

**Same images.** The folder that torchvision, DALI and Pillow read holds the JPEGs of our beton without restart markers:
the same pixels, coded with the same optimal Huffman tables. FFCV reads what its own writer makes of the same images.

Writes bench.json and bench.png to ``--out``, next to the contestants' logs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from alexnet_fast.common.cli import file_path
from alexnet_fast.common.cpus import allowed_cores
from alexnet_fast.errors import UserError, exit_code
from bench.chart import draw
from bench.competitors import NAMES, PEERS
from bench.inputs import choose_photos
from bench.proc import physical_cores
from bench.report import machine, make_report, print_report, write_json
from bench.runner import Entry
from bench.size_run import Side


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_pipeline.py",
        description="Images a second of alexnet_fast and of each peer that is installed, on the same images, in interleaved rounds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=file_path, required=True, metavar="DIR", help="folder with train/<class>/*")
    add(
        "--out",
        type=file_path,
        default=Path("runs/bench"),
        metavar="DIR",
        help="where bench.json, bench.png and the logs are written",
    )
    add(
        "--work",
        type=file_path,
        metavar="DIR",
        help="where packed inputs are kept between runs; None = OUT/inputs",
    )
    add(
        "--peers",
        type=_names,
        default=",".join(NAMES),
        metavar="A,B",
        help="who takes part, of " + ", ".join(NAMES),
    )
    add(
        "--python",
        type=_interpreter,
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="interpreter of a peer: " + ", ".join(PEERS),
    )
    add(
        "--sides",
        type=_numbers,
        default="500,256",
        metavar="PX,PX",
        help="longest side of the stored images; larger ones are shrunk",
    )
    add(
        "--raw-sides",
        type=_numbers,
        default="256",
        metavar="PX,PX",
        help="those of --sides at which raw pixels are measured too",
    )
    add("--quality", type=int, default=90, metavar="Q", help="JPEG quality")
    add(
        "--restart-mcus",
        type=int,
        default=2,
        metavar="N",
        help="MCUs between restart markers in our beton; 0 = none",
    )
    add("--threads", type=_numbers, default="1", metavar="T,T", help="thread counts, each on as many cores")
    add("--rounds", type=_positive, default=5, metavar="N", help="timed rounds")
    add("--epochs", type=_positive, default=2, metavar="N", help="epochs a round")
    add(
        "--images",
        type=_positive,
        metavar="N",
        help="images of an epoch, cut to complete batches; None = all",
    )
    add("--batch", type=_positive, default=125, metavar="N", help="images a batch")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected at least 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    return list(dict.fromkeys(_positive(part) for part in text.split(",")))


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(NAMES)}")
    return names


def _interpreter(text: str) -> tuple[str, str]:
    peer, equals, path = text.partition("=")
    if not equals or peer not in PEERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not PEER=PATH with PEER one of {', '.join(PEERS)}")
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{path!r} cannot be run, expected a python")
    return peer, os.path.abspath(path)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    console, out = Console(stderr=True), options.out.resolve()
    cores = physical_cores(os.sched_getaffinity(0))[: allowed_cores()]
    if max(options.threads) > len(cores):
        raise UserError(
            f"--threads {max(options.threads)} needs as many cores and this process may use {len(cores)}; ask for fewer"
        )
    (out / "logs").mkdir(parents=True, exist_ok=True)
    started = machine()
    photos = choose_photos(options.data, options.images, options.batch)
    entries: list[Entry] = []
    absent: dict[str, str] = {}
    stored_bytes: dict[str, int] = {}
    for side_px in options.sides:
        bench = Side(side_px, options, photos, cores, out, console)
        entries += bench.run()
        absent |= bench.absent
        stored_bytes |= bench.stored_bytes
    if not entries:
        raise UserError(
            f"none of {', '.join(options.peers)} could run: {'; '.join(f'{k}: {v}' for k, v in absent.items())}"
        )
    settings = {
        "images": len(photos.split.paths),
        "batch_size": options.batch,
        "sides": options.sides,
        "quality": options.quality,
        "restart_mcus": options.restart_mcus,
        "rounds": options.rounds,
        "epochs": options.epochs,
        "stored_bytes": stored_bytes,
    }
    report = make_report(entries, settings, absent, started)
    write_json(report, out / "bench.json")
    draw(report, out / "bench.png")
    print_report(report, Console(width=None if sys.stdout.isatty() else 150))
    print(f"{out / 'bench.json'}\n{out / 'bench.png'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))

"""Pack a set of images into .beton files, or verify such files: ``python -m alexnet_fast.pack``.

DIR/train/<class>/* and DIR/val/<class>/* become train.beton and val.beton.  In a checkout ``tools/write_beton.py`` is the same command.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import NoReturn

from .beton.classes import without_images
from .beton.index_file import IndexFile, index_path
from .common.libturbojpeg import MISSING
from .common.progress import progress_bar
from .common.text import plural
from .errors import StoppedBySignal, UserError, escaped, exit_code
from .pack_options import FLAGGED, PROG, dataset_given, encoding_asked_for, parse
from .packing.data_folder import shared_classes
from .packing.encode import Encoding
from .packing.forecast import forecast
from .packing.join import check_index, join, join_parts
from .packing.journal import progress_sentence
from .packing.parts import PartOf, SourcePart, all_parts, digest_of, settings_of
from .packing.sources import (
    FOLDER,
    Dataset,
    Source,
    described,
)
from .packing.sources.archives import ArchiveDataset
from .packing.sources.imagenet import left_packed
from .packing.sources.listing import FolderError
from .packing.writer import PackResult, check_place, left_aside, write_beton


def splits_to_pack(dataset: Dataset, only: str | None, out: Path) -> dict[str, Source]:
    """The splits of ``dataset``; all use the labels of the training split, from the dataset or packed in ``out`` before.

    Raises:
        FolderError: ``dataset`` or the split asked for does not exist, or neither train nor val does.
    """
    there = dataset.splits()
    names = [only] if only else there
    if not names:
        raise FolderError(
            f"{dataset.reader('').place} has neither train/ nor val/; name the folder of classes with --split NAME, or give its parent "
            "as --data"
        )
    classes = shared_classes(dataset, names, out, lambda sentence: print(escaped(sentence)))
    return {name: dataset.open(name, classes) for name in names}


Settings = dict[str, dict[str, object]]
"""Of each file to be packed, by the name of its split: what its json records beside the encoding."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send, ends a packing as Ctrl-C does."""


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """The command line; returns the exit code.

    Args:
        prog: the command's name in its help.

    Raises:
        UserError: see ``errors.exit_code``, which turns it into a sentence and a code.
    """
    options = parse(argv, prog)
    verifies = "verify" in options
    if "join" in options:
        index, *files = options.join
        print(escaped(joined_sentence(join(index, files))))
        return 0
    try:
        return verify_all(options) if verifies else pack_all(options)
    except KeyboardInterrupt as stop:
        where = "while verifying" if verifies else "while no image was being packed"
        raise _stopped(stop, where) from None


def pack_all(options: argparse.Namespace) -> int:
    """Pack every split that was asked for; returns 0."""
    encoding = encoding_asked_for(options)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file: give a folder for train.beton and val.beton")
    dataset = dataset_given(options, options.data)
    splits = splits_to_pack(dataset, options.split, options.out)
    paths, settings = dict[str, Path](), Settings()
    if dataset.kind == FOLDER and not options.split and (left := left_packed(options.data, list(splits))):
        print(escaped(left))
    if isinstance(dataset, ArchiveDataset) and not options.split:
        for name in dataset.left_out():
            print(escaped(f"not packed: the split {name}; --split {name} packs it"))
    for name, split in splits.items():
        if options.shuffle_seed is not None:
            split = split.shuffled(options.shuffle_seed)
        splits[name] = split.limited(options.limit) if options.limit else split
        paths[name] = options.out / f"{name}.beton"
        settings[name] = {"split": name, "shuffle_seed": options.shuffle_seed, "limit": options.limit}
        settings[name] |= described(dataset, name)
    whole = dict(splits), dict(paths)
    if count := options.shards or (options.part and options.part.count):
        for path in paths.values():
            check_index(path, count, options.fresh)
        wanted = [options.part] if options.part else all_parts(count)
        splits, paths, settings = _in_parts(wanted, splits, paths, settings)
    if not options.fresh:
        for name, split in splits.items():
            check_place(split, paths[name], encoding, settings[name], options.on_corrupt)
    needed = 0
    for name, split in splits.items():
        is_new = options.fresh or not paths[name].exists()
        if is_new and (takes := forecast(split, paths[name], encoding, needed)):
            print(escaped(str(takes)), file=sys.stderr, flush=True)
            needed += takes.needed
    for name, split in splits.items():
        path = paths[name]
        try:
            with progress_bar(f"packing {name}", len(split.keys)) as progress:
                packed = write_beton(
                    split,
                    path,
                    encoding,
                    workers=options.workers,
                    on_error=options.on_error,
                    on_corrupt=options.on_corrupt,
                    settings=settings[name],
                    fresh=options.fresh,
                    progress=progress,
                )
        except KeyboardInterrupt as stop:
            raise _stopped(stop, f"while packing: {progress_sentence(path, len(split.keys))}") from None
        labels = (
            f"of {len(split.classes)} classes"
            if split.classes
            else f"with labels {min(split.labels):g} to {max(split.labels):g}"
            if len(split.labels)
            else "with vectors as labels"
        )
        print(*map(escaped, summary(packed, labels, encoding)), sep="\n")
        if by := settings[name].get("classes_from"):
            print(f"  labels are numbered by {by}")
        if not options.limit and not count and (missing := without_images(split.labels, split.classes)):
            print(f"  {missing}")
    for name, split in whole[0].items() if count else ():
        print(escaped(parts_sentence(whole[1][name], wanted[-1], options.fresh)))
        if not options.limit and (missing := without_images(split.labels, split.classes)):
            print(f"  {missing}")
    return 0


def _in_parts(
    wanted: list[PartOf], splits: dict[str, Source], paths: dict[str, Path], settings: Settings
) -> tuple[dict[str, Source], dict[str, Path], Settings]:
    """These parts of every split, in place of the whole splits."""
    digests = {name: digest_of(split) for name, split in splits.items()}
    each = {f"{name} {part}": (name, part) for name in splits for part in wanted}
    return (
        {label: SourcePart.of(splits[name], part) for label, (name, part) in each.items()},
        {label: part.path(paths[name]) for label, (name, part) in each.items()},
        {
            label: {**settings[name], **settings_of(part, digests[name])}
            for label, (name, part) in each.items()
        },
    )


def parts_sentence(path: Path, last: PartOf, fresh: bool) -> str:
    """Write the index of a split's parts if all are finished; returns a sentence on it, or on what is missing.

    Args:
        path: where the split would be as one file.
        last: the part that was packed last.
    """
    index, missing = join_parts(path, last, fresh)
    if index is not None:
        return joined_sentence(index)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"finished parts of {path.stem}: {last.count - len(missing)} of {last.count}; not packed yet: {missing[0].name}{more}; the one "
        f"that ends last writes {index_path(path).name}"
    )


def joined_sentence(index: IndexFile) -> str:
    """What an index joins, in words."""
    classes = f" of {len(index.classes):,} classes" if index.classes else ""
    return f"{index.path}: {index.samples:,} samples{classes} in {plural(len(index.parts), 'part')}"


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _stopped(stop: KeyboardInterrupt, where: str) -> StoppedBySignal:
    return StoppedBySignal(signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT, where)


def verify_all(options: argparse.Namespace) -> int:
    """Print the faults of each file and a sentence on it; returns 1 if there are any, else 0."""
    from alexnet_fast.inspection.verify import betons_at, verify  # imported here: packing needs no decoder

    named = options.source or any(getattr(options, kind) for kind in FLAGGED)
    source = dataset_given(options, options.source) if named else None
    faults = 0
    for path in (file for given in options.verify for file in betons_at(given)):
        with progress_bar(f"verifying {path.name}") as progress:
            verdict = verify(
                path,
                source,
                workers=options.workers,
                image_field=options.image_field,
                label_field=options.label_field,
                progress=progress,
            )
        print(*map(escaped, verdict.lines()), sep="\n")
        faults += len(verdict.faults)
    return 1 if faults else 0


def summary(packed: PackResult, labels: str, encoding: Encoding) -> list[str]:
    """The closing lines: what was written, how fast, and what was converted."""
    done = packed.samples + len(packed.skipped)
    how = (
        f"{(done - packed.resumed) / packed.seconds:,.0f} img/s in {packed.seconds:.1f} s"
        if packed.seconds
        else "packed before"
    )
    if packed.seconds and packed.resumed:
        how += f" after {packed.resumed:,} of an interrupted packing"
    lines = [
        f"{packed.path}: {packed.samples:,} images {labels}, {packed.file_bytes / 1e6:,.1f} MB, "
        f"{packed.payload_bytes / 1e6:,.1f} MB of it images ({packed.payload_bytes / packed.samples / 1e3:,.1f} kB each), {how}"
    ]
    what = {
        "reencode": "converted to RGB JPEG",
        "raw": "stored as RGB",
        "lossless": f"re-encoded at quality {encoding.quality}, without coefficients to keep",
    }[encoding.mode]
    lines += [
        f"  {what}: {count} from {kind}" for kind, count in Counter(packed.converted.values()).most_common()
    ]
    if packed.scaled:
        lines.append(
            f"  scaled from more than 8 bits to 8: {len(packed.scaled)}, with the values of black and white in {packed.path}.json"
        )
    if packed.skipped:
        lines.append(f"  skipped as unreadable: {len(packed.skipped)}, listed in {packed.path}.json")
    if packed.corrupt:
        lines.append(
            f"  corrupt, packed as their decoders read them: {len(packed.corrupt)}, listed in {packed.path}.json"
        )
    if not packed.looked_for_corrupt and packed.seconds:
        lines.append(f"  corrupt JPEGs were not looked for: {MISSING}")
    return lines + [f"  {line}" for line in left_aside(packed)]


def command(prog: str = PROG) -> int:
    """The entry point: ``main`` with this process's arguments and signals; returns the exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    return exit_code(lambda: main(prog=prog))


if __name__ == "__main__":
    sys.exit(command())

"""The command line of packing: its flags, and the encoding and the dataset that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from .beton.index_file import MAX_PARTS
from .common.cli import Defaults, Parser, add_field_flags, file_or_url, file_path
from .common.cpus import allowed_cores
from .errors import UserError
from .packing.columns import field_types, field_words
from .packing.data_folder import SHUFFLE_SEED
from .packing.encode import Encoding
from .packing.parts import PartOf
from .packing.sources import SOURCES, Dataset, LabelType, TakesFields, kind_of_folder, open_dataset

PROG = "python -m alexnet_fast.pack"
FLAGGED = [name for name, kind in SOURCES.items() if kind.flag_help]  # sources that a file names
TYPED = ("list", "webdataset", "parquet")  # sources whose labels may be of any type
SHAPING = ("max_resolution", "min_side", "quality")  # options that change an image's pixels


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(
        prog=prog,
        usage="%(prog)s --data DIR --out DIR [options]\n       %(prog)s --verify FILE|DIR|URL ... [--source DIR] [--workers N]\n"
        "       %(prog)s --join INDEX [FILE ...]",
        description="Pack a set of images into FFCV .beton files whose JPEGs have restart markers, so that "
        "a loader can decode only the tiles that a crop touches. If it is interrupted at any moment, even by SIGKILL or a full "
        "disk, the same command resumes there. --verify checks every sample of finished files.",
        formatter_class=Defaults,
    )
    add = made.add_argument
    add(
        "--data",
        type=file_path,
        metavar="DIR",
        help="folder with train/<class>/* and val/<class>/* (either or both), or with ImageNet or Tiny ImageNet as they were downloaded, "
        "or with shards or parquet files",
    )
    add("--out", type=file_path, metavar="DIR", help="folder for train.beton and val.beton")
    add(
        "--split",
        type=_folder_name,
        metavar="NAME",
        help="pack only DIR/NAME/<class>/* (without it: train and val, those that exist)",
    )
    for kind in FLAGGED:
        add(f"--{kind}", type=file_path, metavar=SOURCES[kind].metavar, help=SOURCES[kind].flag_help)
    add(
        "--label-type",
        choices=get_args(LabelType),
        default="auto",
        help="what the labels of a list are: names or numbers of classes (class), numbers that are stored as floats (float), or "
        "floats if all are numbers and one has a decimal point, else classes (auto)",
    )
    add(
        "--columns",
        type=_two_names,
        metavar="IMAGES,LABELS",
        help="names of a list's or table's columns of images and labels, or of the parts of a shard's samples, as jpg,json.label "
        "(without it: the usual names, as path,label, image,label and jpg,cls)",
    )
    add(
        "--val-labels",
        type=file_path,
        metavar="FILE",
        help="ImageNet's tars: the classes of the validation images, one a line in the order of their names or 'name class', if neither "
        "the devkit nor a list of a known name is next to the tars",
    )
    add(
        "--fields",
        type=_fields,
        metavar="NAME:TYPE,...",
        help="further columns of a list (CSV, TSV or JSON lines) to pack as fields: int, float, bytes, json, or "
        "an array such as float32[40]; label:float32[40] makes the label a vector",
    )
    # Not in the result if not given, so that given options can be distinguished from Encoding's defaults.
    add(
        "--max-resolution",
        type=_at_least(0),
        default=argparse.SUPPRESS,
        metavar="PX",
        help="longest side; larger images are shrunk; 0 = any; not with --mode lossless "
        f"(default: {Encoding.max_resolution})",
    )
    add(
        "--min-side",
        type=_at_least(0),
        default=argparse.SUPPRESS,
        metavar="PX",
        help=f"shortest side to shrink to; 0 = any; not with --mode lossless (default: {Encoding.min_side})",
    )
    add(
        "--quality",
        type=_at_least(1, 100),
        default=argparse.SUPPRESS,
        metavar="Q",
        help=f"JPEG quality, 1 to 100; not with --mode lossless (default: {Encoding.quality})",
    )
    add(
        "--restart-mcus",
        type=_at_least(0),
        default=Encoding.restart_mcus,
        metavar="N",
        help="MCUs between restart markers, as near as an image's width allows; 0 = none. An MCU is 16 px wide; "
        "with --mode lossless as wide as the source's, 8 px at 4:4:4",
    )
    add(
        "--optimize",
        action="store_true",
        help="Huffman tables made for each image: 3.6%% fewer bytes, a third more packing time",
    )
    add(
        "--mode",
        choices=("reencode", "raw", "lossless"),
        default="reencode",
        help="re-encode as JPEG with restart markers; store raw RGB pixels; or keep the source JPEG's own coefficients, no pixel "
        "changed, and add restart markers (needs libjpeg-turbo's jpegtran)",
    )
    add(
        "--workers",
        type=_at_least(1),
        default=allowed_cores(),
        metavar="N",
        help="processes that decode and encode",
    )
    add(
        "--shuffle-seed",
        type=_seed,
        default=SHUFFLE_SEED,
        metavar="S",
        help="seed of the order of the samples in the file, so that neighbours are of different classes; 'none' = by class",
    )
    add("--limit", type=_at_least(1), metavar="N", help="the first N images (after shuffling) of each split")
    add(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="an unreadable image ends the packing, or is skipped and listed in the json",
    )
    add(
        "--on-corrupt",
        choices=("pack", "error"),
        default="pack",
        help="an image that its decoder reads with a warning (some of its pixels are invented) is packed and listed in the json, or counts "
        "as unreadable",
    )
    add(
        "--fresh",
        action="store_true",
        help="start from scratch, even if a packing was interrupted or finished there; without it no other finished file is replaced",
    )
    add(
        "--shards",
        type=_at_least(1, MAX_PARTS),
        metavar="N",
        help="pack each split into N files, NAME-1-of-N.beton to NAME-N-of-N.beton, and an index of them, NAME.index.json, which the Loader "
        "takes as one set",
    )
    add(
        "--part",
        type=_part,
        metavar="K/N",
        help="pack only the K-th of those N files, for a job array of a cluster: the parts may be packed in any order, on several machines at "
        "the same time, and the last one to end writes the index",
    )
    add(
        "--join",
        type=file_path,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="INDEX FILE",
        help="pack nothing: write INDEX (NAME.index.json) as the index of these files, patterns and indexes, in this order; without FILE, of those "
        "that it names now. To add a file: --join INDEX INDEX FILE",
    )
    add(
        "--verify",
        type=file_or_url,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="FILE|DIR|URL",
        help="pack nothing: check that every sample of these files, of the .beton files in these folders or of the parts of an index decodes and "
        "matches its checksum and, with --source, its source; exit code 1 if one does not",
    )
    add(
        "--source",
        type=file_path,
        metavar="DIR",
        help="with --verify: the folder that was packed, or that of its split; every image is encoded again and compared",
    )
    add_field_flags(made, "with --verify: ")
    return made


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line's arguments; exits with a one-sentence error for those that do not go together."""
    reader = parser(prog)
    options = reader.parse(argv)
    given = [kind for kind in FLAGGED if getattr(options, kind)]
    if len(given) > 1:
        reader.error(f"--{given[0]} and --{given[1]} are two sources: give one")
    if given and SOURCES[given[0]].alone and (options.data or options.source):
        other = "--data" if options.data else "--source"
        reader.error(f"--{given[0]} names the images itself: give it without {other}")
    if options.label_type != "auto" and "label" in (options.fields or ()):
        reader.error("--label-type and --fields label:... both say what the label is: give one")
    if options.shards and options.part:
        reader.error("--shards packs all parts and --part one of them: give one of the two")
    if "join" in options:
        if "verify" in options or given or options.data or options.out or options.shards or options.part:
            reader.error(
                "--join packs nothing: give it alone, with the index and the files that it is to name"
            )
    elif "verify" in options:
        if options.data or options.out or options.shards or options.part:
            reader.error(
                "--verify packs nothing: give it without --data and --out, and the folder to compare with as --source"
            )
        if given and not options.source and not SOURCES[given[0]].alone:
            reader.error(f"--{given[0]} goes with --source, the folder of the images, when verifying")
    elif not (options.data or given) or not options.out:
        reader.error("packing needs --data and --out")
    elif options.source:
        reader.error("--source goes with --verify")
    elif options.image_field or options.label_field:
        reader.error(
            "--image-field and --label-field go with --verify: what is packed has one image and one label"
        )
    return options


def _at_least(low: int, high: int = 1 << 31) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is out of range, expected {low} to {high}")
        return value

    number.__name__ = "whole number"  # argparse names the type in its message
    return number


def _folder_name(text: str) -> str:
    """The name of a folder in --data, which also names the file in --out; not a path, which could leave both folders."""
    name = text.rstrip("/")  # a shell's completion adds a slash
    if name in ("", ".", "..") or "/" in name:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of a folder in --data; expected one such as train, without folders before it"
        )
    return name


def _part(text: str) -> PartOf:
    try:
        return PartOf.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _two_names(text: str) -> tuple[str, str]:
    names = text.split(",")
    if len(names) != 2 or not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} does not name two columns; expected IMAGES,LABELS")
    return names[0], names[1]


def _fields(text: str) -> dict[str, str]:
    try:
        return field_words(text)
    except UserError as error:  # one is a ValueError, which argparse words itself
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int | None:
    return None if text == "none" else int(text)


_seed.__name__ = "whole number or 'none'"


def encoding_asked_for(options: argparse.Namespace) -> Encoding:
    """The encoding that the options ask for.

    Raises:
        UserError: an option does not go with --mode lossless.
    """
    shaping = {name: value for name, value in vars(options).items() if name in SHAPING}
    if options.mode == "lossless":
        if shaping:
            given = " and ".join(f"--{name.replace('_', '-')}" for name in shaping)
            raise UserError(
                f"--mode lossless keeps every JPEG's own size and quality; pack without {given}, or with --mode reencode"
            )
        shaping = {"max_resolution": 0}
    return Encoding(
        mode=options.mode, restart_mcus=options.restart_mcus, optimize=options.optimize, **shaping
    )


def dataset_given(options: argparse.Namespace, folder: Path | None) -> Dataset:
    """The source that the flags name.

    Args:
        folder: of the images; None: the folder of the file that the source's own flag names.

    Raises:
        UserError: a flag is of another source.
    """
    kind, file = next(((kind, file) for kind in FLAGGED if (file := getattr(options, kind))), ("", None))
    if file is None:
        assert folder  # parse() has checked this
        kind = kind_of_folder(folder)
    if options.label_type != "auto" and kind not in TYPED:
        raise UserError(
            f"--label-type says what the labels of a list are: give it with --{' or --'.join(TYPED)}"
        )
    if options.columns and kind not in TYPED:
        raise UserError(f"--columns names columns of a list: give it with --{' or --'.join(TYPED)}")
    if options.val_labels and kind != "imagenet":
        raise UserError("--val-labels goes with ImageNet's tars: name their folder with --imagenet")
    place = folder or (file.parent if file else Path())
    dataset = open_dataset(
        kind, place, file, options.label_type, columns=options.columns, val_labels=options.val_labels
    )
    if not options.fields:
        return dataset
    if not isinstance(dataset, TakesFields):
        raise UserError("--fields names columns of a list: give it with --list")
    return dataset.with_fields(field_types(options.fields, "--fields"))

"""What the set would cost if it were stored in another way: some of its samples, packed again in memory and decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..beton import format as fmt
from ..beton.reader import Beton
from ..decode.crop import CropOptions
from ..decode.decoder import DecoderName
from ..decode.kernel import SAMPLE_DTYPE
from ..decode.stages import ALL, DecodeStages
from ..distributed.world import World
from ..packing.encode import Encoding, encode_jpeg, shrunk
from .decoding import some_samples
from .stats import WINDOWS, Stat, averaged

SAMPLES = 40
OTHERS = {
    "JPEG, 500 px": Encoding(max_resolution=500),
    "JPEG, 256 px": Encoding(max_resolution=256),
    "raw, 256 px": Encoding(mode="raw", max_resolution=256),
}


@dataclass(frozen=True)
class StorageOption:
    """One way to store the set: how long one thread decodes a sample, and how many bytes a sample has.

    options: of ``python -m alexnet_fast.pack``; empty for the set as it is.
    """

    name: str
    options: str
    decode_us: Stat
    sample_bytes: float


def measure(beton: Beton, cropping: CropOptions, decoder: DecoderName, world: World) -> list[StorageOption]:
    """The set as it is, first, and every other way that makes its samples smaller to decode."""
    samples = some_samples(beton, SAMPLES, cropping, world)
    # Each rank has other samples, and all have to measure the same ways.
    largest = world.all_reduce_max(max(samples["width"].max(), samples["height"].max()))
    is_raw = bool(world.all_reduce_max((samples["raw"] == fmt.RAW).any()))
    candidates = {"as it is": (beton.map, samples)}
    for name, encoding in OTHERS.items():
        smaller = encoding.max_resolution < largest
        if (smaller or (encoding.mode == "raw" and not is_raw)) and not (is_raw and encoding.mode != "raw"):
            candidates[name] = _packed_again(beton, samples, encoding)
    stages = {
        name: DecodeStages(file, table, cropping, decoder) for name, (file, table) in candidates.items()
    }
    rounds_us: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(WINDOWS + 1):
        for name, each in stages.items():
            took_s = sum(each.time(k, ALL) for k in range(len(each.chunks)))
            if number:  # the first round only warms up
                rounds_us[name].append(took_s * 1e6 / len(samples))
    return [
        StorageOption(name, _options(OTHERS.get(name)), averaged(rounds_us[name], world), each.payload_bytes)
        for name, each in stages.items()
    ]


def _packed_again(beton: Beton, samples: np.ndarray, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """The samples' bytes in another encoding, one after another, and where each is."""
    table, payloads, at = np.zeros(len(samples), SAMPLE_DTYPE), [], 0
    for row, sample in zip(table, samples, strict=True):
        image = shrunk(_picture(beton, sample), encoding)
        is_raw = encoding.mode == "raw"
        payload = image.tobytes() if is_raw else encode_jpeg(image, encoding)
        row["ptr"], row["size"], row["index"] = at, len(payload), sample["index"]
        row["width"], row["height"] = image.size
        row["raw"] = fmt.RAW if is_raw else fmt.JPEG
        payloads.append(payload)
        at += len(payload)
    return np.frombuffer(b"".join(payloads), np.uint8), table


def _picture(beton: Beton, sample: np.void) -> Image.Image:
    payload = beton.payload(int(sample["index"])).tobytes()
    if sample["raw"] == fmt.RAW:
        return Image.frombytes("RGB", (int(sample["width"]), int(sample["height"])), payload)
    return Image.open(io.BytesIO(payload), formats=("JPEG",))


def _options(encoding: Encoding | None) -> str:
    if encoding is None:
        return ""
    mode = "--mode raw " if encoding.mode == "raw" else ""
    return f"{mode}--max-resolution {encoding.max_resolution}"

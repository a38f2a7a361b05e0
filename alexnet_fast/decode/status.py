"""What became of a sample: one byte that travels with it from the kernel to the consumer."""

from __future__ import annotations

from ..common.libturbojpeg import MISSING
from ..errors import UserError

OK = 0
NOT_JPEG = 1
UNSUPPORTED = 2
WRONG_SIZE = 3
BAD_TABLE = 4
BAD_TILES = 5
DECODER = 6
TOO_LARGE = 7  # the thread's scratch must grow first; left so only where it will not
NO_TABLE = 8
TOO_SMALL = 9
NO_LIBRARY = 10  # Decoder.decode puts it in place of DECODER; no kernel sets it

MEANING = {
    NOT_JPEG: "its bytes are no JPEG",
    UNSUPPORTED: "its JPEG is of a kind that cannot be decoded to YCbCr planes (CMYK, stored RGB, 12-bit, arithmetic, odd subsampling, a side of more than 65,500 pixels, thousands of scans)",
    WRONG_SIZE: "its JPEG has another size than the file's metadata says",
    BAD_TABLE: "its tile table disagrees with its bytes",
    BAD_TILES: "its restart markers are missing or out of order",
    NO_TABLE: "its JPEG lacks a quantisation or Huffman table that its scans use",
    DECODER: "libjpeg-turbo found its data corrupt",
    TOO_SMALL: "its JPEG has fewer bytes than the smallest of the size that the file's metadata says",
    NO_LIBRARY: f"its JPEG is unusual (progressive, say) or corrupt, which takes libjpeg-turbo to decode or to decide, and {MISSING}",
    TOO_LARGE: "the file's metadata says that it has more than 2^28 pixels",
}


class BrokenSample(UserError):
    """A sample that cannot be decoded."""

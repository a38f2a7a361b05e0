"""FFCV's crop decoders with our kernels, for FFCV's own Loader.

from alexnet_fast.ffcv_ops import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
"""

from .decoders import CenterCropRGBImageDecoder, FfcvMissing, RandomResizedCropRGBImageDecoder

__all__ = ["CenterCropRGBImageDecoder", "FfcvMissing", "RandomResizedCropRGBImageDecoder"]

"""Imported before torch, so that OpenMP's threads sleep while they wait, as they do in a training run."""

import alexnet_fast.engine  # noqa: F401

"""Lightning runs of examples/lightning_train.py: a whole one, then one from each of its checkpoints; what each process saw is in OUT/rank-N.json.

python lightning_resumes.py DEVICES DATA OUT; the launcher starts this file again for each further device.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import lightning_train as example
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

warnings.filterwarnings("ignore")


class Seen(pl.Callback):
    """The labels of each batch, by epoch and step."""

    def __init__(self) -> None:
        self.labels: dict[tuple[int, int], list[int]] = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, step) -> None:  # type: ignore[no-untyped-def]
        self.labels[trainer.current_epoch, step] = batch[1].tolist()


devices, data, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
STEPS = 4


def run(folder: str, *more: str) -> tuple[dict[tuple[int, int], list[int]], list[torch.Tensor]]:
    pl.seed_everything(1, verbose=False)
    given = f"--arch shufflenet_v2_x0_5 --epochs 3 --size 32 --accelerator cpu --devices {devices} --save-every 1000"
    batch_size = str(200 // STEPS // devices)
    args = example.parser.parse_args(
        [data, *given.split(), "--batch-size", batch_size, "--out", str(out), *more]
    )
    seen = Seen()
    save = [
        ModelCheckpoint(out / folder, "step-{step}", every_n_train_steps=every, save_top_k=-1)
        for every in (STEPS, 3)
    ]
    at_end = ModelCheckpoint(out / folder, "end-{step}", every_n_epochs=1, save_top_k=-1)
    trainer = example.fit(args, seen, *save, at_end)
    assert trainer.lightning_module is not None
    return seen.labels, [each.clone() for each in trainer.lightning_module.net.state_dict().values()]


whole, weights = run("whole")
assert sorted(whole) == [(epoch, step) for epoch in range(3) for step in range(STEPS)]
found: dict[str, Any] = {"seen": [label for key, labels in whole.items() if key[0] == 0 for label in labels]}
for name in ("step-step=3", "step-step=4", "step-step=6", "end-step=4", "end-step=8"):
    labels, resumed = run("resumed", "--ckpt-path", str(out / "whole" / f"{name}.ckpt"))
    after = int(name.partition("=")[2])
    expected = {key: each for key, each in whole.items() if key[0] * STEPS + key[1] >= after}
    same = all(map(torch.equal, weights, resumed))
    found[name] = {"batches": labels == expected, "weights": same, "steps": sorted(labels)}
(out / f"rank-{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(found))

"""Two processes of Accelerate: what each is handed out, skipped, and resumed with.  Started by torchrun: DATA OUT."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator

from alexnet_fast import Loader

data, out = sys.argv[1:]


def opened() -> Loader:
    return Loader(f"{data}/train.beton", 20, train=True, size=32, threads=1)


loaders = [opened() for _ in range(4)]  # before the processes are a group, as scripts do
accelerator = Accelerator(cpu=True)
whole, skipping, stopped, resumed = loaders
assert accelerator.prepare(whole) is whole
batches = [[batch.indices.tolist() for batch in whole] for _ in range(2)]
own = torch.tensor([place for batch in batches[0] for place in batch])
everyones = accelerator.gather(own).tolist()
accelerator.print("shared", len(batches[0]), len(everyones), len(set(everyones)), flush=True)

skipping.set_epoch(1)
skipped = list(accelerator.skip_first_batches(skipping, 3))
skips = [batch.indices.tolist() for batch in skipped] == batches[1][3:]

accelerator.register_for_checkpointing(stopped)
for _ in stopped:
    pass
device_batches = iter(stopped.prefetch_to(accelerator.device))
before = [next(device_batches).indices.tolist() for _ in range(2)]
accelerator.save_state(out)
accelerator.wait_for_everyone()  # one of them writes
accelerator._custom_objects[:] = [resumed]
accelerator.load_state(out)
rest = [batch.indices.tolist() for batch in resumed]
resumes = before + rest == batches[1] and len(rest) == 3
found = accelerator.gather(torch.tensor([skips, resumes], dtype=torch.int64)).tolist()
accelerator.print("skips and resumes", found, flush=True)
for loader in loaders:
    loader.close()
accelerator.end_training()

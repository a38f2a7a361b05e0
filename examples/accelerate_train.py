"""Accelerate: the processes share the set, and a run resumes within an epoch.

    accelerate launch --num_processes 4 examples/accelerate_train.py packed
    accelerate launch --num_processes 4 examples/accelerate_train.py packed --resume checkpoint

The Loader is not given to `prepare`, which knows torch's own DataLoader alone: it finds its rank by itself and copies to the
device ahead.  `accelerator.skip_first_batches(loader, n)` works too.

The resume takes one line, `register_for_checkpointing`, and cannot take none: `save_state` writes what `prepare` has wrapped and what is
registered, and `prepare` returns whatever is no DataLoader as it is, with no hook where an object could say that it has a state.  A
Loader that was a DataLoader would be wrapped, and then sharded and copied a second time.  A DataLoader over the Loader, with
Accelerate's `use_stateful_dataloader`, is sharded so too: every process would decode all batches, and keep its share of them.
"""

import argparse

import torch
import torchvision
from accelerate import Accelerator
from torch import nn

from alexnet_fast import ImageNet, Loader

parser = argparse.ArgumentParser()
parser.add_argument("data", help="folder with train.beton and val.beton")
parser.add_argument("--arch", default="resnet18")
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--batch-size", type=int, default=256, help="on each process")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--save-every", type=int, default=1000, help="steps")
parser.add_argument("--checkpoint", default="checkpoint")
parser.add_argument("--resume")


def main() -> None:
    args = parser.parse_args()
    accelerator = Accelerator()
    options = {"size": args.size, "normalize": ImageNet, "pin_memory": accelerator.device.type != "cpu"}
    train_loader = Loader(f"{args.data}/train.beton", args.batch_size, train=True, **options)
    val_loader = Loader(f"{args.data}/val.beton", args.batch_size, train=False, **options)
    train_loader, val_loader = (each.prefetch_to(accelerator.device) for each in (train_loader, val_loader))
    net = torchvision.models.get_model(args.arch, num_classes=len(train_loader.dataset.classes))
    net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), args.lr, momentum=0.9))
    accelerator.register_for_checkpointing(train_loader)
    if args.resume:
        accelerator.load_state(args.resume)

    step = 0
    for epoch in range(train_loader.epoch, args.epochs):
        net.train()
        train_loader.set_epoch(epoch)
        for images, labels in train_loader:
            loss = nn.functional.cross_entropy(net(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % args.save_every == 0:
                accelerator.save_state(args.checkpoint)
        counts = torch.zeros(2, dtype=torch.int64, device=accelerator.device)
        net.eval()
        with torch.no_grad():
            for images, labels in val_loader:
                counts += torch.stack(
                    [(net(images).argmax(1) == labels).sum(), torch.tensor(len(labels)).to(counts)]
                )
        correct, count = accelerator.reduce(counts).tolist()
        accelerator.print(f"epoch {epoch} accuracy {correct / count:.4f} of {count}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()

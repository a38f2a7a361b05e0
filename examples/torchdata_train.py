"""torchdata: a StatefulDataLoader over a Loader keeps the Loader's state, and so does a pipeline of torchdata's nodes.

    python examples/torchdata_train.py packed
    python examples/torchdata_train.py packed --resume state.pt

The DataLoader has no workers and makes no batches: the Loader's threads do.
"""

import argparse
import os

import torch
import torchvision
from torch import nn
from torchdata.nodes import IterableWrapper, Prefetcher
from torchdata.nodes import Loader as NodesLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from alexnet_fast import ImageNet, Loader

parser = argparse.ArgumentParser()
parser.add_argument("data", help="folder with train.beton")
parser.add_argument("--arch", default="resnet18")
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--batch-size", type=int, default=256)
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--stop-after", type=int, help="steps")
parser.add_argument("--state", default="state.pt")
parser.add_argument("--resume", help="a file that --state named")
parser.add_argument(
    "--nodes", action="store_true", help="a pipeline of nodes in place of a StatefulDataLoader"
)


def main() -> None:
    args = parser.parse_args()
    loader = Loader(
        f"{args.data}/train.beton", args.batch_size, train=True, size=args.size, normalize=ImageNet
    )
    if args.nodes:
        batches = NodesLoader(Prefetcher(IterableWrapper(loader), prefetch_factor=2))
    else:
        batches = StatefulDataLoader(loader, batch_size=None)
    net = torchvision.models.get_model(args.arch, num_classes=len(loader.dataset.classes))
    optimizer = torch.optim.SGD(net.parameters(), args.lr, momentum=0.9)
    parts = {"net": net, "optimizer": optimizer, "batches": batches}
    if args.resume:
        saved = torch.load(args.resume, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    step = 0
    for epoch in range(args.epochs):
        for images, labels in batches:
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch} labels {labels.tolist()} loss {loss.item():.6f}", flush=True)
            step += 1
            if step == args.stop_after:
                torch.save({name: part.state_dict() for name, part in parts.items()}, args.state)
                return
    print(f"trained {os.path.basename(args.data)} to loss {loss.item():.6f}")


if __name__ == "__main__":
    main()

"""One file, one loop, in the style of pytorch/examples: on one device, or on several by torchrun.

    python examples/imagenet.py packed --arch resnet50
    torchrun --nproc-per-node 8 examples/imagenet.py packed --arch resnet50
    python examples/imagenet.py packed --arch resnet50 --resume checkpoint.pt

Of the data there are two lines, the Loaders: they find their rank, normalize on the device, and know where a run was stopped.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_fast import ImageNet, Loader

parser = argparse.ArgumentParser()
parser.add_argument("data", help="folder with train.beton and val.beton")
parser.add_argument("--arch", default="resnet18")
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--batch-size", type=int, default=256, help="on each rank")
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--checkpoint", default="checkpoint.pt")
parser.add_argument("--resume")


def main() -> None:
    args = parser.parse_args()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", 0)))
    device = accelerator or torch.device("cpu")
    options = {"size": args.size, "normalize": ImageNet, "pin_memory": accelerator is not None}
    train_loader = Loader(f"{args.data}/train.beton", args.batch_size, train=True, **options).prefetch_to(
        device
    )
    val_loader = Loader(f"{args.data}/val.beton", args.batch_size, train=False, **options).prefetch_to(device)
    if "RANK" in os.environ:
        dist.init_process_group()

    model = torchvision.models.get_model(args.arch, num_classes=len(train_loader.dataset.classes)).to(device)
    net = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": train_loader}
    if args.resume:
        checkpoint = torch.load(args.resume, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])

    for epoch in range(train_loader.epoch, args.epochs):
        train_loader.sampler.set_epoch(epoch)
        net.train()
        for step, (images, labels) in enumerate(train_loader):
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                print(f"epoch {epoch} step {step}/{len(train_loader)} loss {loss.item():.4f}", flush=True)
        scheduler.step()
        correct, count = validate(net, val_loader, device)
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(f"epoch {epoch} accuracy {correct / count:.4f} of {count}", flush=True)
            torch.save({name: part.state_dict() for name, part in parts.items()}, args.checkpoint)
    if dist.is_initialized():
        dist.destroy_process_group()


@torch.no_grad()
def validate(net: nn.Module, loader: Loader, device: torch.device) -> tuple[int, int]:
    """Correct answers and images, over all ranks: each image once."""
    net.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for images, labels in loader:
        counts[0] += (net(images).argmax(1) == labels).sum()
        counts[1] += len(labels)
    if dist.is_initialized():
        dist.all_reduce(counts)
    correct, count = counts.tolist()
    return correct, count


if __name__ == "__main__":
    main()

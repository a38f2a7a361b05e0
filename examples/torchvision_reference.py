"""What torchvision's reference training adds: repeated augmentation, label smoothing, EMA, warm-up, images that grow.

python examples/torchvision_reference.py packed --model resnet50 --ra-reps 4
"""

import argparse

import torch
import torchvision
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from alexnet_fast import Beton, ImageNet, Loader, Repeated

parser = argparse.ArgumentParser()
parser.add_argument("data_path", help="folder with train.beton and val.beton")
parser.add_argument("--model", default="resnet18")
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=0.5)
parser.add_argument("--lr-warmup-epochs", type=int, default=5)
parser.add_argument("--label-smoothing", type=float, default=0.1)
parser.add_argument("--ra-reps", type=int, default=1, help="how often a sample comes in a row")
parser.add_argument("--train-crop-sizes", type=int, nargs="+", default=[128, 176], help="over the epochs")
parser.add_argument("--val-crop-size", type=int, default=224)
parser.add_argument("--device", default="cuda")


def main() -> None:
    args = parser.parse_args()
    path = f"{args.data_path}/train.beton"
    options = {"normalize": ImageNet, "pin_memory": args.device != "cpu"}
    order = Repeated(args.ra_reps, num_samples=Beton(path).num_samples)
    train_loader = Loader(path, args.batch_size, train=True, order=order, **options).prefetch_to(args.device)
    val_loader = Loader(
        f"{args.data_path}/val.beton", args.batch_size, train=False, size=args.val_crop_size, **options
    ).prefetch_to(args.device)

    model = torchvision.models.get_model(args.model, num_classes=len(train_loader.dataset.classes))
    model = model.to(args.device, memory_format=torch.channels_last)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=2e-5, nesterov=True)
    warmup = LinearLR(optimizer, 0.01, total_iters=args.lr_warmup_epochs)
    rest = CosineAnnealingLR(optimizer, max(1, args.epochs - args.lr_warmup_epochs))
    scheduler = SequentialLR(optimizer, [warmup, rest], [args.lr_warmup_epochs])

    for epoch in range(args.epochs):
        train_loader.size = args.train_crop_sizes[epoch * len(args.train_crop_sizes) // args.epochs]
        model.train()
        for images, labels in train_loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update_parameters(model)
        scheduler.step()
        print(
            f"epoch {epoch} size {train_loader.size} loss {loss.item():.4f} "
            f"accuracy {accuracy(model, val_loader):.4f} EMA {accuracy(ema, val_loader):.4f}",
            flush=True,
        )


@torch.inference_mode()
def accuracy(model: nn.Module, loader: Loader) -> float:
    model.eval()
    correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return correct / len(loader.dataset)


if __name__ == "__main__":
    main()

"""timm's models, mixup, EMA, optimizers and schedules, with our Loader in place of timm's.

python examples/timm_train.py packed --model vit_small_patch16_224 --mixup 0.2 --cutmix 1.0
"""

import argparse

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, accuracy

from alexnet_fast import Loader

parser = argparse.ArgumentParser()
parser.add_argument("data_dir", help="folder with train.beton and val.beton")
parser.add_argument("--model", default="resnet50")
parser.add_argument("--opt", default="adamw")
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("-b", "--batch-size", type=int, default=128)
parser.add_argument("--mixup", type=float, default=0.2)
parser.add_argument("--cutmix", type=float, default=1.0)
parser.add_argument("--img-size", type=int)
parser.add_argument("--device", default="cuda")


def main() -> None:
    args = parser.parse_args()
    model = timm.create_model(args.model)
    wanted = timm.data.resolve_data_config(
        {}, model=model
    )  # of this model: size, mean and standard deviation
    options = {
        "size": args.img_size or wanted["input_size"][-1],
        "normalize": (wanted["mean"], wanted["std"]),
        "pin_memory": args.device != "cpu",
    }
    train = Loader(f"{args.data_dir}/train.beton", args.batch_size, train=True, **options).prefetch_to(
        args.device
    )
    val = Loader(
        f"{args.data_dir}/val.beton", args.batch_size, train=False, center_ratio=wanted["crop_pct"], **options
    ).prefetch_to(args.device)
    num_classes = len(train.dataset.classes)

    model.reset_classifier(num_classes)
    model = model.to(args.device, memory_format=torch.channels_last)
    ema = ModelEmaV3(model, decay=0.999)
    mixup = Mixup(args.mixup, args.cutmix, label_smoothing=0.1, num_classes=num_classes)
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=args.epochs, warmup_t=min(5, args.epochs - 1))
    criterion = SoftTargetCrossEntropy()

    for epoch in range(args.epochs):
        model.train()
        losses = AverageMeter()
        for images, labels in train:
            images, soft_labels = mixup(images, labels)
            loss = criterion(model(images), soft_labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            losses.update(loss.item(), len(images))
        scheduler.step(epoch + 1)
        print(f"epoch {epoch} loss {losses.avg:.4f} EMA's top-1 {top1(ema.module, val):.2f}", flush=True)


@torch.inference_mode()
def top1(model: torch.nn.Module, loader: Loader) -> float:
    model.eval()
    meter = AverageMeter()
    for images, labels in loader:
        meter.update(accuracy(model(images), labels)[0].item(), len(labels))
    return meter.avg


if __name__ == "__main__":
    main()

"""Lightning: a run that is stopped at any step resumes with the very next batch, on any number of devices.

    python examples/lightning_train.py packed --devices 4
    python examples/lightning_train.py packed --devices 4 --ckpt-path lightning_logs/.../last.ckpt

Nothing here is about the resume: Lightning keeps the Loader's state in its checkpoints.
"""

import argparse

import lightning.pytorch as pl
import torch
import torchvision
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from alexnet_fast import ImageNet, Loader


class Classifier(pl.LightningModule):
    """A network, its loss and its accuracy."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], step: int) -> torch.Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], step: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


parser = argparse.ArgumentParser()
parser.add_argument("data", help="folder with train.beton and val.beton")
parser.add_argument("--arch", default="resnet18")
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--batch-size", type=int, default=256, help="on each device")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--accelerator", default="auto")
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--save-every", type=int, default=1000, help="steps")
parser.add_argument("--out", default=".")
parser.add_argument("--ckpt-path")


def fit(args: argparse.Namespace, *callbacks: pl.Callback) -> pl.Trainer:
    options = {"size": args.size, "normalize": ImageNet}
    train_loader = Loader(f"{args.data}/train.beton", args.batch_size, train=True, **options)
    val_loader = Loader(f"{args.data}/val.beton", args.batch_size, train=False, **options)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=args.devices,
        default_root_dir=args.out,
        callbacks=[ModelCheckpoint(every_n_train_steps=args.save_every, save_top_k=-1), *callbacks],
    )
    net = torchvision.models.get_model(args.arch, num_classes=len(train_loader.dataset.classes))
    trainer.fit(Classifier(net, args.lr), train_loader, val_loader, ckpt_path=args.ckpt_path)
    return trainer


if __name__ == "__main__":
    trainer = fit(parser.parse_args())
    print(f"after {trainer.current_epoch} epochs: accuracy {trainer.callback_metrics['accuracy']:.4f}")

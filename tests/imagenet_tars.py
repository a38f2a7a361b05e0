"""ImageNet as it is downloaded, made small out of real images: a tar of tars, a flat tar, and the devkit with its real kinds of files."""

from __future__ import annotations

import base64
import io
import shutil
import tarfile
from pathlib import Path

from PIL import Image

WNIDS = ["n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331"]
NUMBERS = [3, 1, 2, 6, 5, 4]
"""ILSVRC2012_ID of each class in META, which is in no order of names."""
META = base64.b85decode(
    "O+i#lK|&xkE-"
    ")ZXK~ybfX>4U6P;6mzW^ZzBIv{Xwb7^=iAVYFxVRU6=Aa8CuAX8y<AWm;~ATl^0F)=zaGCDIdATlsAHUIzs000000000000000000000000000"
    "00000000000000000000000000000000000Bu&4*&oFc>w?bc%1E)L2H9B6vtnk)|EloV7>bRcF-DYcN=Vn7RC-"
    "6Y)6qbsL)2xjL~nfkG(`=8)cwtCcF6Hk-R7Wzr6eiWC{SQDZrSm=PWfS!w|K}awL-"
    "P^F7Hi&DnPyu0;Qf<@)jE_4$5oJM&=uzzyD>%JmSRX|~DbMzl@yT7!J-g7-MtZZb@YMy;qk2&O@dlPIP_LbEU-"
    "L9z=YoC6yLY&gzy(U@l>B@dlV%=cV(C+YMbbQ4K;DQaRn2)Ul?i$3>RwfM{$J~J_ybuhcJQX1n-"
    "_$^!f%!VJYL#sUA=6Ot7&O;NsHeD4*9dy!l{a+Vu*T!i&4b*rq(bBV}d6jq<W&`g&d7pve{kHuDlIB&r-`s5A-6wAy)Og=6T-"
    "TB2RpMQk4ZQp0ZGa+ggnUn$SB*C}8+iB0dkl)a9e43}_nVsyy!+&Bf(maIj*sN`S{t8n!-v<H(1h;)hi~;>ZPRHr9aCzj@vYuVzvaZ^8yk6s@B"
)
"""meta.mat as scipy 1.x wrote it, compressed: these six classes, and n00001740, which has children and is none."""


def image_files(photos: Path, count: int) -> list[tuple[str, bytes]]:
    """(class, content) of N images: photos of each class in turn; among the first are a PNG, a CMYK JPEG and a grey JPEG."""
    found = []
    for k in range(count):
        name = WNIDS[k % len(WNIDS)]
        content = next((photos / "train" / name).iterdir()).read_bytes()
        if k in (1, 2, 3):
            with Image.open(io.BytesIO(content)) as image:
                buffer = io.BytesIO()
                converted = image.reduce(2).convert(("RGB", "CMYK", "L")[k - 1])
                converted.save(buffer, "PNG" if k == 1 else "JPEG")
                content = buffer.getvalue()
        elif k >= len(WNIDS):  # no two alike
            with Image.open(io.BytesIO(content)) as image:
                buffer = io.BytesIO()
                image.convert("RGB").rotate(k).reduce(2).save(buffer, "JPEG", quality=80)
                content = buffer.getvalue()
        found.append((name, content))
    return found


def make_tars(root: Path, photos: Path, train: int = 14, val: int = 9) -> Path:
    """A folder with the three archives; neither the tars of classes nor the images in them are in the order of names."""
    root.mkdir(parents=True)
    by_class: dict[str, list[tuple[str, bytes]]] = {name: [] for name in reversed(WNIDS)}
    for k, (name, content) in enumerate(image_files(photos, train)):
        by_class[name].append((f"{name}_{997 - k}.JPEG", content))
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for name, images in by_class.items():
            add(outer, f"{name}.tar", tar_of(images))
    shown = image_files(photos, val)[::-1]
    images = [(f"ILSVRC2012_val_{k + 1:08d}.JPEG", content) for k, (_, content) in enumerate(shown)]
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(images[::-1]))
    truth = "".join(f"{NUMBERS[WNIDS.index(name)]}\n" for name, _ in shown)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        add(devkit, "ILSVRC2012_devkit_t12/readme.txt", b"ILSVRC2012")
        add(devkit, "ILSVRC2012_devkit_t12/data/meta.mat", META)
        add(devkit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    return root


def val_wnids(tars: Path) -> list[str]:
    """The classes of the validation images, in the order of their names."""
    with tarfile.open(tars / "ILSVRC2012_devkit_t12.tar.gz") as devkit:
        truth = devkit.extractfile("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")
        assert truth
        return [WNIDS[NUMBERS.index(int(line))] for line in truth.read().split()]


def unpack(tars: Path, root: Path) -> Path:
    """Unpack the archives into train/<class>/* and val/<class>/*, as torchvision and the usual scripts do."""
    with tarfile.open(tars / "ILSVRC2012_img_train.tar") as outer:
        for tar in outer:
            content = outer.extractfile(tar)
            assert content
            with tarfile.open(fileobj=content) as inner:
                inner.extractall(root / "train" / tar.name.removesuffix(".tar"), filter="data")
    with tarfile.open(tars / "ILSVRC2012_img_val.tar") as flat:
        flat.extractall(root / "flat", filter="data")
    for name, image in zip(val_wnids(tars), sorted((root / "flat").iterdir())):
        (root / "val" / name).mkdir(parents=True, exist_ok=True)
        shutil.move(image, root / "val" / name)
    (root / "flat").rmdir()
    return root


def tar_of(files: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    """A tar of files: (name, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files:
            add(tar, name, content)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))

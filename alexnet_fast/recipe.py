"""Recipes: all settings of a run as one frozen object.

Every key is defined here, once, with its default and its description; recipe_toml.py reads, writes and lists them.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from .common.paths import given_path
from .common.sizes import Size, sides
from .common.urls import check_local
from .errors import UserError
from .models import check_name, spec_of

MAX_INT = (1 << 63) - 1

Positive = Annotated[int, Field(gt=0, le=MAX_INT)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Pair = tuple[float, float]
Side = Annotated[int, Field(le=4096)]
HeightAndWidth = tuple[Side, Side]
Stages = tuple[tuple[Count, Side | HeightAndWidth], ...]
"""[[0, 128], [10, 192]]: 128 from epoch 0 on, 192 from epoch 10 on."""
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
FilePath = Annotated[Text, AfterValidator(lambda text: given_path(check_local(text)))]
"""Every other key that is a path."""
OptionalPath = Annotated[Text, AfterValidator(lambda text: given_path(check_local(text)) if text else text)]
"""A path, or empty for none."""
ModelName = Annotated[str, AfterValidator(check_name)]


class Section(BaseModel):
    """Frozen and strict about types; rejects unknown keys.  A key's docstring is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Run(Section):
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "run"
    """Names the folder of results, `<out>/<name>`."""
    seed: Count = 49
    """Seed of weights, dropout, order, crops and flips."""
    device: Text = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda or npu; npu:1 for one of several."""
    out: FilePath = "runs"
    """Folder that contains the run's folder."""


def _known_operations(given: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """The list, if every table of it makes an operation of alexnet_fast.augment."""
    if given:
        from .augment.operations import (
            all_made,
        )  # compiled kernels' modules, which a recipe without operations does not need

        try:
            all_made(given)
        except UserError as error:
            raise ValueError(str(error)) from None
    return given


Operations = tuple[dict[str, Any], ...]


def _given_betons(given: GivenBetons) -> GivenBetons:
    if isinstance(given, tuple) and not given:
        raise ValueError("an empty list: give at least one .beton file")
    for text in (given,) if isinstance(given, str) else given:
        if "\0" in text:
            raise ValueError("a path holds no NUL")
    return given_path(given) if isinstance(given, str) else tuple(map(given_path, given))


GivenBetons = str | tuple[str, ...]
Betons = Annotated[GivenBetons, AfterValidator(_given_betons)]
"""Files, patterns and indexes, as the Loader takes them."""
Weights = tuple[Rate, ...]


def _by_epoch(given: Size | Stages) -> Stages:
    """Sizes by epoch; a single size is that of every epoch."""
    one = isinstance(given, int) or (len(given) > 0 and isinstance(given[0], int))
    return ((0, cast(Size, given)),) if one else cast(Stages, given)


def _in_order(given: Size | Stages) -> Size | Stages:
    """The size, if its stages begin at epoch 0 and follow each other."""
    epochs = [epoch for epoch, _ in _by_epoch(given)]
    if not epochs or epochs[0] != 0 or any(after <= before for before, after in pairwise(epochs)):
        raise ValueError("its epochs begin at 0 and rise, as in [[0, 128], [10, 192]]")
    return given


class FieldNames(TypedDict):
    """As Beton and Loader take them; None = the only one of its type."""

    image_field: str | None
    label_field: str | None


class Data(Section):
    train: Betons = "data/train.beton"
    """Beton to train on: a path, or a URL (s3://, gs://, https://, hf://), whose file is fetched into a cache first; several as a list, a
    pattern ("shards/*.beton") or an index ("train.index.json")."""
    val: Betons = "data/val.beton"
    """Beton to evaluate on; or several, as data.train."""
    weights: Weights = ()
    """Of a list data.train, which share of an epoch's samples comes from each entry, as [0.7, 0.3]; [] = each file's own."""
    image_field: Text = ""
    """Name of the betons' field that is the image; empty = their only RGB image."""
    label_field: Text = ""
    """Name of the betons' field that is the label; empty = their only int or, without an int, their only float or, without both, their only array; or the one that our packer marks."""
    synthetic: bool = False
    """Train on synthetic images in place of data.train and data.val: to measure, not to learn."""
    size: Annotated[Side | HeightAndWidth | Stages, AfterValidator(_in_order)] = 224
    """Side of the training images in pixels, or [height, width]; AlexNet needs 63. Or by epoch: [[0, 128], [10, 192]] is 128 from epoch 0 on, and 192 from epoch 10 on."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How crops are resized, in training and evaluation: bilinear or bicubic, antialiased as Pillow's."""
    global_batch_size: Positive = 128
    """Samples per step over all ranks; each rank takes its share."""
    threads: Count = 0
    """Decoding threads of each rank; 0 = the cores this process may use."""
    batches_ahead: Positive = 3
    """Batches decoded ahead of the step."""
    read_ahead_bytes: Count = 64 << 20
    """Bytes of samples beyond those batches that are read into the page cache; 0 = only when they are decoded."""
    order: Literal["shuffle", "block"] = "shuffle"
    """Order of the training samples: shuffle, or block (by whole pages of the beton: for one that does not fit in memory, or a slow disk)."""
    window_pages: Positive = 128
    """Pages of the beton among which the order block shuffles samples; about two windows are in memory."""
    decoder: Literal["auto", "libjpeg"] = "auto"
    """What decodes JPEGs: auto (our own decoder, libjpeg-turbo for unusual ones) or libjpeg (libjpeg-turbo for all). The pixels are the same."""
    on_error: Literal["raise", "skip"] = "raise"
    """A training sample that cannot be decoded: raise (stop, naming it) or skip (a shorter batch; the report lists it). Evaluation always raises."""
    scale: Pair = (0.08, 1.0)
    """Minimum and maximum share of the image's area in a training crop."""
    ratio: Pair = (3 / 4, 4 / 3)
    """Minimum and maximum width / height of a training crop."""
    flip: Share = 0.5
    """Probability that a training image is mirrored."""

    @property
    def stages(self) -> Stages:
        """The sizes of the training images, each with the epoch from which on it is used."""
        return _by_epoch(self.size)

    def size_at(self, epoch: int) -> Size:
        """The size of the training images of an epoch, in pixels."""
        return [size for first, size in self.stages if first <= epoch][-1]

    @property
    def largest_size(self) -> Size:
        """The largest size of training images, in pixels, which decides about memory."""
        return max((size for _, size in self.stages), key=lambda size: math.prod(sides(size)))

    @property
    def fields(self) -> FieldNames:
        """The names of the betons' fields."""
        return {"image_field": self.image_field or None, "label_field": self.label_field or None}


class Augment(Section):
    """Changes of training images; evaluation has none."""

    operations: Annotated[Operations, AfterValidator(_known_operations)] = ()
    """What is done to each training image, in this order, as [{op = "RandAugment", magnitude = 9}, {op = "RandomErasing", p = 0.25}]."""
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Alpha of mixup, whose share is drawn from Beta(alpha, alpha); 0 = no mixup."""
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Alpha of cutmix; 0 = no cutmix. With mixup too, each batch gets one of the two."""
    mix_prob: Share = 1.0
    """Probability that a batch is mixed, where augment.mixup or augment.cutmix is not 0."""


class Model(Section):
    name: ModelName = "alexnet"
    """The network: alexnet, or one of torchvision's (resnet18) or timm's (timm/vit_small_patch16_224) classifiers, where that package is installed, with model.dropout = 0."""
    task: Literal["classification", "regression", "multilabel"] = "classification"
    """What is learned: classification (a class from an int, by cross entropy), regression (a float or a vector, by its squared error) or multilabel (a vector of 0 and 1, by binary cross entropy)."""
    num_classes: Positive = 1000
    """Outputs of the model: the number of classes, whose labels are 0 to one less; for regression 1, or a vector's length; of labels for multilabel."""
    dropout: Share = 0.5
    """Dropout before AlexNet's first two fully connected layers; other networks have their own, so 0."""
    init: Literal["torch", "he"] = "torch"
    """Fresh weights: torch (its defaults, as the reference) or he (learns much sooner, at a lower optim.lr)."""
    weights: OptionalPath = ""
    """Checkpoint or torchvision state_dict to start from; empty = fresh weights."""


def _betas(given: Pair) -> Pair:
    if not all(0 <= each < 1 for each in given):
        raise ValueError("both are from 0 to less than 1")
    return given


class Optim(Section):
    lr: Rate = 0.01
    """Highest learning rate, for the global batch as it is (no scaling rule)."""
    momentum: Share = 0.9
    """SGD momentum."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: Rate = 1e-4
    """SGD's L2 penalty, or AdamW's decay, on all parameters, or on those that optim.decay_norms_and_biases leaves."""
    label_smoothing: Share = 0.1
    """Share of the target spread evenly over all classes, in training; used by classification alone."""
    name: Literal["sgd", "adamw"] = "sgd"
    """The optimizer, torch's own: sgd or adamw."""
    betas: Annotated[Pair, AfterValidator(_betas)] = (0.9, 0.999)
    """AdamW's shares of the first and second moments that are kept at each step."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """What AdamW adds to the root of the second moment."""
    decay_norms_and_biases: bool = True
    """Whether norm layers, biases and other parameters of one dimension decay too."""
    clip_norm: Rate = 0.0
    """Largest norm of all gradients together; longer ones are scaled down to it. 0 = they are not clipped."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights (0.9999), evaluated and saved next to them; at step n at most (1 + n) / (10 + n). 0 = none."""


class Schedule(Section):
    epochs: Positive = 90
    """Epochs to train."""
    curve: Literal["cosine", "constant"] = "cosine"
    """cosine (to 0 at the end) or constant."""
    per: Literal["epoch", "step"] = "epoch"
    """Whether the rate changes once per epoch (as in the reference) or at each step."""
    warmup_epochs: Rate = 0.0
    """Epochs over which the rate first rises linearly to lr."""
    steps_per_epoch: Count = 0
    """Cut each epoch after this many steps; 0 = the whole epoch."""
    nonfinite_steps: Count = 20
    """Stop when the loss is not finite for this many steps in a row, checked at log lines; 0 = never."""
    accumulate: Positive = 1
    """Parts into which each rank's share of data.global_batch_size is cut; they pass one after another, and their gradients make one step: a large batch in little memory."""


class Precision(Section):
    level: Literal["O0", "O1", "O2"] = "O2"
    """O0 float32 (on CUDA without TF32), O1 autocast, O2 half weights with float32 masters."""
    half: Literal["auto", "float16", "bfloat16"] = "auto"
    """Half precision of O1 and O2: auto (bfloat16 on a CPU, float16 elsewhere), float16 or bfloat16, which needs no loss scale."""
    loss_scale: Literal["auto", "dynamic", "none"] | Annotated[float, Field(gt=0)] = "auto"
    """dynamic, none, or a number kept as it is; auto = dynamic for float16, none for bfloat16."""
    reduce: Literal["half", "float32"] = "half"
    """Sum O2's gradients over ranks as they are (half: less traffic) or in float32."""


Choice = Literal["auto"] | bool


class Engine(Section):
    """Fast paths of a step. Each is compared with the plain step when the run starts, and is off where it differs or does not run."""

    graph: Choice = "auto"
    """Queue a whole step, and an evaluation's forward pass, in one call, as a captured graph: auto (on CUDA), true or false."""
    compile: Choice = "auto"
    """Compile normalize, forward, loss and backward with torch.compile: auto (on CUDA with triton and a C compiler), true or false."""
    space_to_depth: Choice = "auto"
    """Compute AlexNet's first convolution over blocks of 4 x 4 pixels: auto (on CUDA; on a CPU it does not pay), true or false."""
    fused_optimizer: Choice = "auto"
    """Step half gradients, masters, momenta and half weights in one Triton kernel: auto (on CUDA with triton, at O2), true or false."""


class Eval(Section):
    only: bool = False
    """Evaluate and stop, as --eval does."""
    every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated. 0 = never evaluate."""
    global_batch_size: Count = 0
    """Samples per evaluation step over all ranks; 0 = as in training."""
    size: Annotated[int, Field(ge=0, le=4096)] | HeightAndWidth = 0
    """Side of the evaluation images in pixels, or [height, width]; 0 = as in training, at its end."""
    center_ratio: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Side of the centre crop over the resized shorter side; 0.875 = Resize(256) + CenterCrop(224). Of [height, width]: over what the resized image just covers."""
    full_batches_of: Count = 0
    """Also report the accuracy over full batches of this many samples, as the reference does (128); 0 = only the exact one."""


class Checkpoint(Section):
    every_epochs: Count = 1
    """Epochs between checkpoints. A best epoch, the last one and a stop save too, unless this and every_steps are both 0: then nothing is saved."""
    every_steps: Count = 0
    """Also save after every this many steps of an epoch; 0 = only at the ends of epochs."""
    keep: Positive = 2
    """Checkpoints of the run that are kept: the last and those before it; the best is kept too."""

    @property
    def is_asked_for(self) -> bool:
        """Whether the run saves at all."""
        return self.every_epochs > 0 or self.every_steps > 0


class Log(Section):
    print_freq: Positive = 10
    """Steps between log lines; only then are losses read from the device."""
    warmup_steps: Count = 10
    """First steps of the run that do not count in its img/s."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run's folder."""


class Distributed(Section):
    nproc: Positive = 1
    """Ranks to start on each host, one device each; under torchrun the ranks that it started are used."""
    hosts: Positive = 1
    """Hosts that train together; the same command runs on each."""
    host: Count = 0
    """This host's number, from 0; host 0 writes and prints."""
    address: Text = ""
    """host:port of host 0, where the hosts meet; empty = this host alone."""
    backend: Literal["auto", "gloo", "nccl", "hccl"] = "auto"
    """Collectives between ranks; auto = the device's own (gloo on CPU, nccl on CUDA, hccl on NPU)."""
    timeout_s: Positive = 600
    """Seconds for which a rank waits for the others before the run ends with an error."""
    stop_s: Positive = 60
    """Seconds that ranks have to finish their step and save when the run is signalled to stop; then they are killed."""


class Recipe(Section):
    """All settings of a run. Paths are relative to the current directory; a leading ~ is the home folder."""

    run: Run = Run()
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    precision: Precision = Precision()
    engine: Engine = Engine()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    distributed: Distributed = Distributed()

    @model_validator(mode="after")
    def _fits_the_network(self) -> Recipe:
        """Raise for keys whose limits depend on model.name."""
        spec, optim = spec_of(self.model.name), self.optim
        dropout, mistakes = self.model.dropout, list[InitErrorDetails]()
        for _, size in self.data.stages:
            if min(sides(size)) < spec.min_size_px:
                limit = {"ge": spec.min_size_px}
                mistakes += [
                    {
                        "type": "greater_than_equal",
                        "loc": ("data", "size"),
                        "input": self.data.size,
                        "ctx": limit,
                    }
                ]
        if dropout and not spec.has_dropout:
            has = "has a dropout of its own" if spec.is_tried else "has no dropout"
            told = {"error": ValueError(f"{spec.title} {has}; set model.dropout = 0")}
            mistakes += [{"type": "value_error", "loc": ("model", "dropout"), "input": dropout, "ctx": told}]
        without = {"sgd": ("betas", "epsilon"), "adamw": ("nesterov",)}[optim.name]
        for key in without:
            given = getattr(optim, key)
            if given != Optim.model_fields[key].default:
                told = {"error": ValueError(f"{optim.name} has none; set optim.name, or remove it")}
                mistakes += [{"type": "value_error", "loc": ("optim", key), "input": given, "ctx": told}]
        if mistakes:
            raise ValidationError.from_exception_data("Recipe", mistakes)
        return self

    @property
    def folder(self) -> Path:
        """The folder of the run's results."""
        return Path(self.run.out) / self.run.name

    @property
    def eval_size(self) -> Size:
        """The size of the evaluation images, in pixels: eval.size, or that of the last training images."""
        return self.eval.size or self.data.size_at(self.schedule.epochs - 1)

    @property
    def tensors_in_checkpoint(self) -> int:
        """How many float32 numbers a checkpoint has for each parameter: the weight, what the optimizer keeps, and the average."""
        return 1 + (2 if self.optim.name == "adamw" else 1) + (self.optim.ema > 0)

    @property
    def max_checkpoints(self) -> int:
        """Maximum number of checkpoint files at once: those that are kept, the best, and one that is being written."""
        saves = self.checkpoint.is_asked_for and not self.eval.only
        return self.checkpoint.keep + 2 if saves else 0

"""Recipes: a TOML file becomes one frozen, validated object.

Every key stands here once, with its default and its description; `keys()` lists them.  A recipe file is
complete in itself, `--set section.key=value` overrides single keys, and what is wrong is one sentence that
names the key.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails

from .common.paths import check_text, given_path
from .common.untrusted import printable, read_text
from .errors import UserError
from .models import MODELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 16
"""Of a recipe: ten times the longest of ours."""
MAX_LINE = 5_000
"""Characters of a line: a path fits. tomllib takes 18 s for one key of 30,000 parts."""
MAX_INT = (1 << 63) - 1

Positive = Annotated[int, Field(gt=0, le=MAX_INT)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Pair = tuple[float, float]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
FilePath = Annotated[Text, AfterValidator(given_path)]
"""Every key that is a path."""
OptionalPath = Annotated[Text, AfterValidator(lambda text: given_path(text) if text else text)]
"""A path, or empty for none."""
if TYPE_CHECKING:
    ModelName = str
else:
    ModelName = Literal[tuple(MODELS)]  # so that messages and --keys list them


class Section(BaseModel):
    """Frozen, strict about types, closed to unknown keys.  A key's docstring is its description."""

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
    """Folder in which the run's folder lies."""


class FieldNames(TypedDict):
    """As Beton and Loader take them; None = the only one of its type."""

    image_field: str | None
    label_field: str | None


class Data(Section):
    train: FilePath = "data/train.beton"
    """Beton to train on."""
    val: FilePath = "data/val.beton"
    """Beton to evaluate on."""
    image_field: Text = ""
    """Name of the betons' field that is the image; empty = their only RGB image."""
    label_field: Text = ""
    """Name of the betons' field that is the label; empty = their only int."""
    synthetic: bool = False
    """Train on made-up photos in place of data.train and data.val: to measure, not to learn."""
    size: Annotated[int, Field(le=4096)] = 224
    """Side of the training images in pixels; AlexNet needs 63."""
    global_batch_size: Positive = 128
    """Samples a step over all ranks; each rank takes its share."""
    threads: Count = 0
    """Decoding threads of each rank; 0 = the cores this process may use."""
    batches_ahead: Positive = 3
    """Batches decoded ahead of the step."""
    read_ahead_bytes: Count = 64 << 20
    """Bytes of samples beyond those batches that are read into the page cache; 0 = only when they are decoded."""
    on_error: Literal["raise", "skip"] = "raise"
    """A training sample that cannot be decoded: raise (stop, naming it) or skip (a shorter batch; the report lists it). Evaluation always raises."""
    scale: Pair = (0.08, 1.0)
    """Least and largest share of the image's area in a training crop."""
    ratio: Pair = (3 / 4, 4 / 3)
    """Least and largest width / height of a training crop."""
    flip: Share = 0.5
    """Probability that a training image is mirrored."""

    @property
    def fields(self) -> FieldNames:
        """Which fields of the betons are meant."""
        return {"image_field": self.image_field or None, "label_field": self.label_field or None}


class Model(Section):
    name: ModelName = "alexnet"
    """The network; resnet18 needs torchvision, and model.dropout = 0."""
    num_classes: Positive = 1000
    """Classes that the model tells apart; labels run from 0 to one less."""
    dropout: Share = 0.5
    """Dropout before the first two fully connected layers."""
    init: Literal["torch", "he"] = "torch"
    """Fresh weights: torch (its defaults, as the reference) or he (learns far sooner, at a lower optim.lr)."""
    weights: OptionalPath = ""
    """Checkpoint or torchvision state_dict to begin from; empty = fresh weights."""


class Optim(Section):
    lr: Rate = 0.01
    """Highest learning rate, for the global batch as it is (no scaling rule)."""
    momentum: Share = 0.9
    """SGD momentum."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: Rate = 1e-4
    """L2 penalty on all parameters."""
    label_smoothing: Share = 0.1
    """Share of the target spread evenly over all classes, in training."""


class Schedule(Section):
    epochs: Positive = 90
    """Epochs to train."""
    curve: Literal["cosine", "constant"] = "cosine"
    """cosine (to 0 at the end) or constant."""
    per: Literal["epoch", "step"] = "epoch"
    """Whether the rate moves once per epoch (as the reference's) or at each step."""
    warmup_epochs: Rate = 0.0
    """Epochs over which the rate first rises linearly to lr."""
    steps_per_epoch: Count = 0
    """Cut each epoch after this many steps; 0 = the whole epoch."""
    nonfinite_steps: Count = 20
    """Stop when the loss of so many steps in a row is not finite, as log lines notice; 0 = never."""


class Precision(Section):
    level: Literal["O0", "O1", "O2"] = "O2"
    """O0 float32, O1 autocast, O2 half weights with float32 masters."""
    loss_scale: Literal["auto", "dynamic", "none"] | Annotated[float, Field(gt=0)] = "auto"
    """dynamic, none, or a number kept as it is; auto = dynamic for float16, none for bfloat16."""
    reduce: Literal["half", "float32"] = "half"
    """Sum O2's gradients over ranks as they are (half: less traffic) or in float32."""


class Eval(Section):
    only: bool = False
    """Evaluate and stop, as --eval does."""
    every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated. 0 = never evaluate."""
    global_batch_size: Count = 0
    """Samples an evaluation step over all ranks; 0 = as in training."""
    size: Annotated[int, Field(ge=0, le=4096)] = 0
    """Side of the evaluation images in pixels; 0 = as in training."""
    center_ratio: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Side of the centre crop over the resized shorter side; 0.875 = Resize(256) + CenterCrop(224)."""
    full_batches_of: Count = 0
    """Also tell the accuracy over full batches of so many samples, as the reference does (128); 0 = the exact one alone."""


class Checkpoint(Section):
    every_epochs: Count = 1
    """Epochs between checkpoints. A best epoch, the last one and a stop save too, unless this and every_steps are both 0: then nothing is saved."""
    every_steps: Count = 0
    """Also save behind every this many steps of an epoch; 0 = at the ends of epochs only."""
    keep: Positive = 2
    """Checkpoints of the run that are kept: the last and those before it; the best is kept besides."""

    @property
    def is_asked_for(self) -> bool:
        """Whether the run saves at all."""
        return self.every_epochs > 0 or self.every_steps > 0


class Log(Section):
    print_freq: Positive = 10
    """Steps between log lines; only then are losses read from the device."""
    warmup_steps: Count = 10
    """First steps of the run that are left out of its img/s."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run's folder."""


class Distributed(Section):
    nproc: Positive = 1
    """Ranks to start on each host, one device each; under torchrun those that it started are joined."""
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
    """Seconds that ranks have to finish their step and save when the run is told to stop; then they are killed."""


class Recipe(Section):
    """A whole run. Paths are relative to the current directory; ~ in front is the home folder."""

    run: Run = Run()
    data: Data = Data()
    model: Model = Model()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    precision: Precision = Precision()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    distributed: Distributed = Distributed()

    @model_validator(mode="after")
    def _fits_the_network(self) -> Recipe:
        """Raises for the keys whose limits depend on model.name."""
        spec = MODELS[self.model.name]
        size, dropout, mistakes = self.data.size, self.model.dropout, list[InitErrorDetails]()
        if size < spec.min_size_px:
            limit = {"ge": spec.min_size_px}
            mistakes += [{"type": "greater_than_equal", "loc": ("data", "size"), "input": size, "ctx": limit}]
        if dropout and not spec.has_dropout:
            told = {"error": ValueError(f"{spec.title} has no dropout; set model.dropout = 0")}
            mistakes += [{"type": "value_error", "loc": ("model", "dropout"), "input": dropout, "ctx": told}]
        if mistakes:
            raise ValidationError.from_exception_data("Recipe", mistakes)
        return self

    @property
    def folder(self) -> Path:
        """Where the run's results lie."""
        return Path(self.run.out) / self.run.name


class Key(NamedTuple):
    """One recipe key, for tables."""

    name: str
    type: str
    default: str
    description: str


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with each "section.key=value" of `overrides` applied.

    Raises UserError, naming the file or key, what it was given and what it expects.
    """
    path = Path(path)
    try:
        text = read_text(path, MAX_BYTES)
        if max(map(len, text.split("\n"))) > MAX_LINE:
            raise ValueError(f"a line has more than {MAX_LINE:,} characters")
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"there is no recipe {path}: {_recipes_beside(path)}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the recipe {path} is not valid TOML: {printable(str(error))}") from error
    except RecursionError:
        raise UserError(f"the recipe {path} is no recipe: its values nest too deeply") from None
    except (OSError, ValueError) as error:  # of a number of thousands of digits, too
        told = printable(str(error))
        raise UserError(
            f"the recipe {printable(str(path))} cannot be read ({told}): expected a TOML text file"
        ) from error
    return validate(table, str(path), [_apply(table, override) for override in overrides])


def validate(table: dict[str, Any], source: str = "the recipe", overridden: Collection[str] = ()) -> Recipe:
    """A recipe from nested tables; raises UserError for the first thing that is wrong in it.

    Args:
        source: whence the tables come.
        overridden: names of the keys that do not come thence, but from the command line (--set or a flag).
    """
    try:
        # By way of JSON, where an array is a tuple and a number with no fraction a float, yet "3" no number.
        return Recipe.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        name, sentence = _sentence(error)
        raise UserError(f"{'on the command line' if name in overridden else source}: {sentence}") from None
    except RecursionError:
        raise UserError(f"{source} is no recipe: its tables nest too deeply") from None
    except ValueError as error:
        raise UserError(f"{source} holds a number that is none: {printable(str(error))}") from None


def dump(recipe: Recipe) -> str:
    """The recipe as a complete TOML file, which `load` reads back to an equal recipe."""
    lines: list[str] = []
    for section, values in recipe.model_dump(mode="json").items():
        lines += [
            f"[{section}]",
            *(f"{key} = {toml(value)}" for key, value in values.items()),
            "",
        ]
    return "\n".join(lines)


def keys() -> Iterator[Key]:
    """Every key in the order of the sections."""
    for section, field in Recipe.model_fields.items():
        for name, key in _section(field).model_fields.items():
            yield Key(f"{section}.{name}", _type_name(key), json.dumps(key.default), key.description or "")


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the keys in which two dumped recipes differ.

    A key that one of them lacks has its default there: a recipe of an older version knows fewer keys.
    """
    default = Recipe().model_dump(mode="json")

    def value(recipe: dict[str, Any], section: str, name: str) -> Any:
        return {**default.get(section, {}), **recipe.get(section, {})}.get(name)

    return [
        f"{section}.{name}"
        for section in {**one, **other}
        for name in {**one.get(section, {}), **other.get(section, {})}
        if value(one, section, name) != value(other, section, name)
    ]


def toml(value: Any) -> str:
    """JSON is TOML, but for the one control character that TOML wants escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _apply(table: dict[str, Any], override: str) -> str:
    """Set one "section.key=value", the value TOML or text as it stands; return the key's name."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise UserError(f"--set {printable(override)}: expected section.key=value, as in --set optim.lr=0.02")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number or a nesting of more than Python takes
        value = check_text(text, f"--set {section}.{key} =")
    values = table.setdefault(section, {})
    if not isinstance(values, dict):
        given = printable(repr(values))
        raise UserError(f"{section} = {given} is no section: write [{section}] and its keys below it")
    values[key] = value
    return f"{section}.{key}"


def _sentence(error: ValidationError) -> tuple[str, str]:
    """The first mistake: its key, and one sentence. Unknown keys come first, since they explain the others."""
    mistakes = sorted(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    mistake = mistakes[0]
    name = printable(".".join(str(part) for part in mistake["loc"][:2]))
    if mistake["type"] == "json_invalid":  # deeper than pydantic goes, or text that is no Unicode
        return name, f"it is no recipe ({printable(mistake['msg'])})"
    if mistake["type"] == "extra_forbidden":
        return name, f"unknown {'key' if '.' in name else 'section'} {name}{_nearest(name)}"
    given = printable(json.dumps(mistake["input"], default=str))
    if mistake["type"] == "value_error":  # a validator's own sentence
        return name, f"{name} = {given} is not accepted: {printable(str(mistake['ctx']['error']))}"
    return name, f"{name} = {given} is not accepted: expected {_expected(name, mistake)}"


def _expected(name: str, mistake: Any) -> str:
    """What the key expects: its type, and its limits where the type was right."""
    kind = next((key.type for key in keys() if key.name == name), f"a section, [{name}] with keys below it")
    of_type = mistake["type"].endswith(("_type", "_from_float", "literal_error", "too_long", "missing"))
    limit = mistake["msg"].removeprefix("Input should be ").removeprefix("String should ")
    return kind if of_type else f"{kind}, {limit}"


def _nearest(name: str) -> str:
    """'; did you mean X?', looking in the same section first, then everywhere."""
    section, _, key = name.partition(".")
    if not key:
        found = difflib.get_close_matches(section, Recipe.model_fields, 1, 0.5)
        return (
            f"; did you mean [{found[0]}]?"
            if found
            else f": the sections are {', '.join(Recipe.model_fields)}"
        )
    names = [known.name for known in keys()]
    own = [known for known in names if known.startswith(f"{section}.")]
    for scope, cutoff in ((own, 0.6), (names, 0.7)):
        full = {known.partition(".")[2]: known for known in scope}
        if near := difflib.get_close_matches(key, full, 1, cutoff):
            return f"; did you mean {full[near[0]]}?"
    return f": the keys of [{section}] are {', '.join(known.partition('.')[2] for known in own)}"


def _section(field: FieldInfo) -> type[Section]:
    assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    return field.annotation


def _type_name(field: FieldInfo) -> str:
    """A reader's name for a key's type."""
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        Pair: "[number, number]",
    }
    if field.annotation in names:
        return names[field.annotation]
    options: list[str] = []
    for member in getattr(field.annotation, "__args__", ()):
        members = getattr(member, "__args__", (member,))
        options += [json.dumps(option) if isinstance(option, str) else names[option] for option in members]
    return " or ".join(options)


def _recipes_beside(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1, 0.4)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    return f"{path.parent} has {', '.join(names)}" if names else "give the path of a TOML file"

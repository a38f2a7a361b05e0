"""What a target is: in the file, in a batch, and what each task asks of it.

Without torch, so that the doctor and the packer can import it.  What is learned from a target is in engine/tasks.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .columns import FLOAT_TYPE, INT_TYPE, ColumnType

if TYPE_CHECKING:
    from .reader import Beton


@dataclass(frozen=True)
class TargetField:
    """How the targets of one of FFCV's field types are stored and handed out.

    name: in messages and in a sidecar.
    stored: in the file.
    dtype: in the host buffer and on the device.
    shape: of one target there; () for a number.
    """

    name: str
    stored: ColumnType
    dtype: np.dtype

    @property
    def type_id(self) -> int:
        """Of the field in the file; ``format.METADATA`` has its dtype there."""
        return self.stored.type_id

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape


INT = TargetField("int", INT_TYPE, np.dtype(np.int64))
# float32, although FFCV's FloatDecoder gives the file's float64: outputs are float32 and a loss expects one dtype, an NPU has no
# float64, and a copy would transfer twice the bytes, only for the step to cast them.
FLOAT = TargetField("float", FLOAT_TYPE, np.dtype(np.float32))

TARGET_FIELDS = {each.type_id: each for each in (INT, FLOAT)}
"""By the type id in the file.  If no field is named, the label is the file's only field of the first of these types that it has."""


@dataclass(frozen=True)
class Misfit:
    """Why a task cannot learn from a file, and what to do: "FILE has `has`, but `but`: `remedy`".

    sets: keys of the recipe that would fix it.  otherwise: what to do if no key would, or instead.
    """

    has: str
    but: str
    sets: Mapping[str, object] = field(default_factory=dict)
    otherwise: str = ""

    @property
    def remedy(self) -> str:
        """For a sentence: set model.num_classes = 3."""
        keys = [f"{key} = {json.dumps(value)}" for key, value in self.sets.items()]
        return self._or_otherwise(f"set {' and '.join(keys)}" if keys else "")

    @property
    def flags(self) -> str:
        """For the command line: --set model.num_classes=3."""
        return self._or_otherwise(" ".join(f"--set {key}={value}" for key, value in self.sets.items()))

    def _or_otherwise(self, keys: str) -> str:
        return ", or ".join(part for part in (keys, self.otherwise) if part)


class Target(Protocol):
    """What a task asks of a file's targets."""

    @property
    def field(self) -> TargetField:
        """Their type in the file and in a batch."""

    @property
    def are_classes(self) -> bool:
        """Whether a target is one of the classes 0, 1, ..., whose names are compared between files."""

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        """Why a model with ``num_outputs`` outputs cannot learn from ``labels``, (N,) as stored; None if it can."""

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        """``count`` targets, (count,) of the field's dtype, spread over the possible values, ascending: for synthetic images."""


@dataclass(frozen=True)
class ClassTarget:
    """A class: an int from 0 to one less than there are outputs."""

    field: TargetField = INT
    are_classes: bool = True

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        lowest, classes = int(labels.min(initial=0)), int(labels.max(initial=0)) + 1
        if lowest >= 0 and classes <= num_outputs:
            return None
        wrong = lowest if lowest < 0 else classes - 1
        leaves = f"model.num_classes = {num_outputs} allows 0 to {num_outputs - 1}"
        if lowest < 0:
            return Misfit(f"a label {wrong}", leaves, otherwise="pack the set again")
        return Misfit(f"a label {wrong}", leaves, {"model.num_classes": classes})

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        return np.arange(count, dtype=self.field.dtype) * num_outputs // count


@dataclass(frozen=True)
class NumberTarget:
    """One number for each image, finite as float32."""

    field: TargetField = FLOAT
    are_classes: bool = False

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        if num_outputs != 1:
            outputs = f"model.num_classes = {num_outputs} gives {num_outputs} outputs"
            return Misfit("one number for each image", outputs, {"model.num_classes": 1})
        with np.errstate(over="ignore"):
            bad = np.flatnonzero(~np.isfinite(labels.astype(self.field.dtype)))
        if not len(bad):
            return None
        first = int(bad[0])
        more = f" and {len(bad) - 1:,} more like it" if len(bad) > 1 else ""
        has = f"a label {float(labels[first])} (sample {first}){more}"
        if np.isfinite(labels[first]):
            largest = f"{np.finfo(self.field.dtype).max:.1e}"
            remedy = "write the labels in another unit and pack the set again"
            return Misfit(has, f"labels are learned as {self.field.dtype}, up to {largest}", otherwise=remedy)
        return Misfit(
            has,
            "only a finite number can be learned",
            otherwise="correct or remove it, and pack the set again",
        )

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        return (np.arange(count) / count).astype(self.field.dtype)


TARGETS: dict[str, Target] = {"classification": ClassTarget(), "regression": NumberTarget()}
"""By model.task.  recipe.py lists the names itself, because it must load without numpy."""


def misfit(beton: Beton, task: str, num_outputs: int) -> Misfit | None:
    """Why a task cannot learn from a file with a model with ``num_outputs`` outputs; None if it can."""
    target, stored = TARGETS[task], beton.target_field
    if stored == target.field:
        return target.misfit(beton.labels, num_outputs)
    has = f"a label field {beton.label_field!r} of type {stored.name}"
    but = f"model.task = {json.dumps(task)} learns from type {target.field.name}"
    if named := [each.name for each in beton.fields if each.type_id == target.field.type_id]:
        return Misfit(has, but, {"data.label_field": named[0]})
    fitting = next(name for name, other in TARGETS.items() if other.field == stored)
    outputs = {"model.num_classes": 1} if stored == FLOAT and num_outputs != 1 else {}
    pack = "pack it from a list with --label-type float" if target.field == FLOAT else ""
    return Misfit(has, but, {"model.task": fitting, **outputs}, pack)


def described(beton: Beton) -> str:
    """The targets of a file in words: labels 0 to 9."""
    lowest, highest = beton.labels.min(), beton.labels.max()
    return (
        f"labels {lowest} to {highest}" if beton.target_field == INT else f"labels {lowest:g} to {highest:g}"
    )

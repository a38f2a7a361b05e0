"""SIGTERM and SIGINT between two steps: all ranks stop behind the same one, and nobody waits for that in a step.

A signal may reach one rank, some or all.  At each boundary (the end of a step, a batch of an evaluation) every
rank hands in the signal that it has had, if any, to a sum over the hosts that runs in the background, and looks
at the sum that it handed in to at the boundary before: it is the same for all, so all stop together, one step
after the first of them knew.  One rank alone stops behind the step that it is in.

    rank 0   step 7 | step 8 | step 9 |          each | hands in to one sum and reads the one before
    rank 1   step 7 | step 8 | step 9 |
                 ^SIGTERM    ^ handed in  ^ read: both stop here

What comes behind the first of these signals follows one rule, for one rank and, at their launcher, for many:

    SIGTERM   changes nothing: timeout sends it twice, and cluster managers to a launcher and its ranks alike
    SIGINT    (Ctrl-C) ends the run at once, without a save

A rank that a launcher started takes notice of the first alone: a cluster manager's and the launcher's may both reach it, and
it cannot tell them apart.  Our launcher counts its own and kills its ranks (launcher.py); torchrun waits for them.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from .world import World, is_joined, is_torchruns

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes the signals that ask a run to stop, while its body runs; `agreed` says when to.

    One that is ignored, as nohup and a shell's & arrange, stays so.

    saves: whether the run saves when it is stopped, for the line that says what the signal does.
    """

    def __init__(self, world: World, saves: bool = True) -> None:
        self._world, self._saves = world, saves
        self._asked = 0
        self._handed_in: tuple[Any, torch.Tensor] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A rank that was told keeps them: its launcher's SIGTERM, behind its own, would end it before it has said how it ends.
        if not (self._asked and is_joined()):
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if kind is None and self._handed_in is not None:  # after an error the others may be gone
            self._handed_in[0].wait()

    def agreed(self) -> int:
        """The signal for which all ranks stop here, 0 for none; each calls this at each boundary."""
        if self._world.world_size == 1:
            return self._asked
        before = self._handed_in
        own = torch.tensor(self._asked)
        self._handed_in = dist.all_reduce(own, dist.ReduceOp.MAX, async_op=True), own
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            return
        self._asked = number
        heeds_ctrl_c = signal.SIGINT in self._before
        if heeds_ctrl_c and not is_joined():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the system's answer waits for no line of Python
        if self._world.is_rank0:  # not by print, which may be what was interrupted
            does = "saves what it has and stops" if self._saves else "stops, and saves nothing"
            if heeds_ctrl_c and not is_torchruns():
                does += "; Ctrl-C from now on ends it at once" + (", without a save" if self._saves else "")
            line = "\n" if os.isatty(2) else ""  # below the live one
            with suppress(OSError):  # its reader may have had the same Ctrl-C, as in `2>&1 | tee log`
                os.write(2, f"{line}{signal.Signals(number).name}: the run {does}\n".encode())

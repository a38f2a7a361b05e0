"""A stand-in for torch_npu: an 'npu' device in host memory, for tests on machines without one.

With the folder above this one on PYTHONPATH torch loads it by itself, as it loads the real package, so that whole
commands and the ranks that they spawn find an NPU.  It is asynchronous: an operation is queued on a stream and
runs later, on that stream's thread; a copy from pinned memory reads its source then, and holds it no longer than
the real one does.  It is as strict as the real one where that is known (the sources of torch_npu 2.13), and says so
in the real one's words:

    memory formats other than contiguous      refused
    a host source that is not contiguous      refused (the real one copies it to unpinned memory first)
    a copy from within a pinned block         the host waits (as where the runtime cannot look up the pointer)
    AdaptiveAvgPool2d in bfloat16             refused (documented for float16 and float32)
    torch.load(map_location="npu")            refused
    torch's fused SGD                         no kernel (2.9 to 2.12): runs on the CPU, and counts as a wait
    waiting while a graph is captured         refused; see graph.py

It plays both kinds of cards: those with infinities, and (native.saturates) those that saturate and set a flag.
Half precision is emulated: computed in float32 and rounded once.  It has a generator of its own.

Environment: ALEXNET_FAST_STANDIN_SHIM is the compiled shim.cpp (see ../../build.py); ASCEND_RT_VISIBLE_DEVICES lists the
devices, as for the real one ("0" where it is not set).
"""

from __future__ import annotations


def _autoload() -> None:
    from . import autocast, hccl, native, npu

    native.start()
    npu.register()
    autocast.register()
    hccl.register()

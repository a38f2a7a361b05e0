"""A SIGBUS handler: a failed read of a mapped file is recorded and does not end the process.

A read from a mapped page raises SIGBUS if its file was truncated, or if its disk or network fails; this ends the process
without a message.  A Python handler cannot help: it would run when the thread next executes Python, but the failed
instruction runs again first, for ever.  So this handler is machine code, compiled by llvmlite in about 5 ms.  If the address
is in a region given to ``watch``, it maps zeros over the rest of the region, records that in the region and lets the
instruction run again.  The reader, which must expect any bytes of a file, then soon finishes;
it checks ``Region.lost_at``, drops its results, and raises an error.

Every other SIGBUS is forwarded as if this handler did not exist: to the handler that was installed before (the user's,
faulthandler's), with its arguments, signal mask and flags, or to the system.  A handler that is installed later replaces this one,
as usual.  The handler calls mmap, signal and raise, preserves errno, and needs neither Python nor its lock; forked children
have it too.  It is never removed, since another handler may have been installed over it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import sys
import threading
from collections import deque
from itertools import count
from typing import Any

MAX_REGIONS = (
    4096  # at a time, more than the betons a process can have open; any further region is not protected
)

# The words (uint64) that the handler reads; MAX_REGIONS regions of three words follow.
PREVIOUS, PREVIOUS_FLAGS, REGIONS = 0, 1, 2
START, END, LOST = (
    0,
    1,
    2,
)  # of a region; END 0: a free entry.  LOST: 1 + the offset of the first byte that could not be read

# Of 64-bit Linux, glibc's and musl's, on x86-64 and aarch64.
SI_CODE_AT, SI_ADDRESS_AT, BUS_ADRERR = 8, 16, 2
SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND = (
    4,
    0x08000000,
    0x10000000,
    0x40000000,
    0x80000000,
)
SIG_DFL, SIG_IGN = 0, 1
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 2, 0x10, 0x20, 0x4000


class Action(ctypes.Structure):
    """struct sigaction"""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_uint),
        ("restorer", ctypes.c_void_p),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.calloc.restype = ctypes.c_void_p
_libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
_size = REGIONS + 3 * MAX_REGIONS
_at: int = _libc.calloc(_size, 8)  # never freed: the handler outlives this module
if not _at:
    raise MemoryError("no memory for the table of mapped files")
_words = (ctypes.c_uint64 * _size).from_address(_at)
_numbers, _free = count(), deque[int]()


class Region:
    """The memory of a mapped file, from ``watch`` to ``forget``."""

    def __init__(self, word: int | None) -> None:
        self._word = word

    @property
    def lost_at(self) -> int | None:
        """Offset in the region of the first byte that could not be read, or None; from its page on the region is zeros now."""
        lost = 0 if self._word is None else _words[self._word + LOST]
        return lost - 1 if lost else None

    def forget(self) -> None:
        """Call this before the memory is unmapped.  It takes no lock, since the garbage collector may call it."""
        word, self._word = self._word, None
        if word is not None:
            _words[word + END] = 0
            _free.append(word)


def watch(address: int, size: int) -> Region:
    """Let the handler protect ``size`` bytes of a mapped file at ``address``, the start of a page.

    The protection starts with ``install``; this call needs only the standard library.
    """
    try:
        word = _free.pop()
    except IndexError:
        if (number := next(_numbers)) >= MAX_REGIONS:
            return Region(None)
        word = REGIONS + 3 * number
    _words[word + LOST] = 0
    _words[word + START] = address
    _words[word + END] = address + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return Region(word)


def install() -> bool:
    """Install the handler, once per process; returns whether it is installed (not on other systems, or without llvmlite)."""
    global _installed
    if _installed is None:
        with _lock:
            if _installed is None:
                _installed = _install()
    return _installed


_installed: bool | None = None
_lock = threading.Lock()


def _make_lock() -> None:
    """In a forked child, replace the lock: another thread may have held it at the fork."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_make_lock)


def _install() -> bool:
    if sys.platform != "linux" or sys.maxsize < 1 << 32 or platform.machine() not in ("x86_64", "aarch64"):
        return False
    try:
        handler = _compile()
    except ImportError:
        return False
    before, ours = Action(), Action()
    if _libc.sigaction(signal.SIGBUS, None, ctypes.byref(before)):
        return False
    _words[PREVIOUS], _words[PREVIOUS_FLAGS] = before.handler or SIG_DFL, before.flags
    ours.handler, ours.mask = handler, before.mask
    ours.flags = SA_SIGINFO | SA_ONSTACK | before.flags & (SA_RESTART | SA_NODEFER)
    return not _libc.sigaction(signal.SIGBUS, ctypes.byref(ours), None)


def _compile() -> int:
    """The handler's address: ``void handler(int number, siginfo_t *info, void *context)``."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(_module())), machine)
    engine.finalize_object()
    address = int(engine.get_function_address("on_sigbus"))
    engine.detach()  # never freed, like the table
    return address


def _module() -> Any:
    from llvmlite import ir

    i32, i64, void = ir.IntType(32), ir.IntType(64), ir.VoidType()
    byte_p = ir.IntType(8).as_pointer()

    def libc(name: str, result: ir.Type, *arguments: ir.Type) -> ir.Value:
        """A C function by its address, so that no symbol must be resolved."""
        address = i64(ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value)
        return block.inttoptr(address, ir.FunctionType(result, arguments).as_pointer())

    module = ir.Module("sigbus")
    handler = ir.Function(module, ir.FunctionType(void, (i32, byte_p, byte_p)), "on_sigbus")
    number, info, context = handler.args
    entry, search, region, mine, following, foreign = (
        handler.append_basic_block(name)
        for name in ("entry", "search", "region", "mine", "following", "foreign")
    )
    block = ir.IRBuilder(entry)

    def pointer(at: ir.Value, kind: ir.Type = i64) -> ir.Value:
        return block.inttoptr(at, kind.as_pointer())

    def word(k: int) -> ir.Value:
        return pointer(i64(_at + 8 * k))

    info_at = block.ptrtoint(info, i64)
    code = block.load(pointer(block.add(info_at, i64(SI_CODE_AT)), i32))
    address = block.load(pointer(block.add(info_at, i64(SI_ADDRESS_AT))))
    block.cbranch(block.icmp_signed("==", code, i32(BUS_ADRERR)), search, foreign)

    # Is it in one of the regions?  To search all takes 5 us.
    block.position_at_end(search)
    k = block.phi(i64)
    k.add_incoming(i64(0), entry)
    block.cbranch(block.icmp_unsigned("<", k, i64(MAX_REGIONS)), region, foreign)

    block.position_at_end(region)
    region_at = block.add(i64(_at + 8 * REGIONS), block.mul(k, i64(24)))
    start = block.load(pointer(block.add(region_at, i64(8 * START))))
    end = block.load(pointer(block.add(region_at, i64(8 * END))))
    inside = block.and_(block.icmp_unsigned("<=", start, address), block.icmp_unsigned("<", address, end))
    block.cbranch(inside, mine, following)

    block.position_at_end(following)
    k.add_incoming(block.add(k, i64(1)), following)
    block.branch(search)

    # One call for the rest of the region, which is lost too if the file was truncated: one call per page would make thousands of maps.
    block.position_at_end(mine)
    lost = pointer(block.add(region_at, i64(8 * LOST)))
    block.store(block.add(block.sub(address, start), i64(1)), lost)
    page = block.and_(address, i64(-mmap.PAGESIZE))
    errno_p = block.call(libc("__errno_location", i32.as_pointer()), ())
    errno = block.load(errno_p)
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE
    length = block.sub(end, page)
    got = block.call(
        libc("mmap", i64, i64, i64, i32, i32, i32, i64),
        (page, length, i32(mmap.PROT_READ), i32(flags), i32(-1), i64(0)),
    )
    block.store(errno, errno_p)
    with block.if_then(block.icmp_unsigned("==", got, page)):
        block.ret_void()
    block.branch(foreign)

    block.position_at_end(foreign)
    previous, before = block.load(word(PREVIOUS)), block.load(word(PREVIOUS_FLAGS))

    def has(flag: int) -> ir.Value:
        return block.icmp_unsigned("!=", block.and_(before, i64(flag)), i64(0))

    with block.if_then(block.icmp_unsigned(">", previous, i64(SIG_IGN))):
        with block.if_then(has(SA_RESETHAND)):
            block.store(i64(SIG_DFL), word(PREVIOUS))
        with block.if_else(has(SA_SIGINFO)) as (informed, plain):
            with informed:
                kind = ir.FunctionType(void, (i32, byte_p, byte_p)).as_pointer()
                block.call(block.inttoptr(previous, kind), (number, info, context))
            with plain:
                block.call(block.inttoptr(previous, ir.FunctionType(void, (i32,)).as_pointer()), (number,))
        block.ret_void()
    # A signal that a process sent can be ignored, and comes once.  A failed instruction runs again, and then the system ends the process.
    sent = block.icmp_signed("<=", code, i32(0))
    ignored = block.icmp_unsigned("==", previous, i64(SIG_IGN))
    with block.if_then(block.and_(sent, ignored)):
        block.ret_void()
    block.call(libc("signal", i64, i32, i64), (number, i64(SIG_DFL)))
    with block.if_then(sent):
        block.call(libc("raise", i32, i32), (number,))
    block.ret_void()
    return module

"""A read of a mapped file that the file cannot answer is noted, and the process lives.

To touch a page of a map whose file was cut short, or whose disk or network fails, raises SIGBUS, which ends the process
without a word.  A handler in Python cannot help: it runs when the thread next executes Python, and the instruction
that failed runs again first, without end.  So this one is machine code, made by llvmlite in about 5 ms.  Where the address lies
in a region that was told to ``watch``, it puts zeros in place of the rest of the region, notes that in the region and lets the
instruction run again, so that the reader, who must expect anything of a file's bytes, soon comes to its end;
then it asks ``Region.lost_at``, drops what it made, and raises an error.

Every other SIGBUS is passed on as if this handler were not there: to the one that was installed before (the user's,
faulthandler's), with its arguments, signal mask and flags, or to the system.  One that is installed later takes this one's place, as its
owner means it to.  The handler calls mmap, signal and raise, keeps errno, and needs neither Python nor
its lock; forked children have it too.  It stays for the life of the process: another may have been put in front of it by then.
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

MOST = 4096  # regions at a time, more than betons can be open; one beyond them is as if this module did not exist

# The words (uint64) that the handler reads; MOST regions of three words follow.
PREVIOUS, PREVIOUS_FLAGS, REGIONS = 0, 1, 2
BEGIN, END, LOST = (
    0,
    1,
    2,
)  # of a region; END 0: of none.  LOST: 1 + the offset of the first byte that was not to be had

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
_size = REGIONS + 3 * MOST
_at: int = _libc.calloc(_size, 8)  # never freed: the handler outlives this module
if not _at:
    raise MemoryError("no memory for the table of mapped files")
_words = (ctypes.c_uint64 * _size).from_address(_at)
_numbers, _free = count(), deque[int]()


class Region:
    """Memory that a file is mapped to, from ``watch`` to ``forget``."""

    def __init__(self, word: int | None) -> None:
        self._word = word

    @property
    def lost_at(self) -> int | None:
        """Where in the region the first byte lies that was not to be had, or None; from there on it holds zeros by now."""
        lost = 0 if self._word is None else _words[self._word + LOST]
        return lost - 1 if lost else None

    def forget(self) -> None:
        """To be called before the memory is unmapped.  It takes no lock: the garbage collector may call it."""
        word, self._word = self._word, None
        if word is not None:
            _words[word + END] = 0
            _free.append(word)


def watch(address: int, size: int) -> Region:
    """Have the handler look after ``size`` bytes of a mapped file at ``address``, the begin of a page.

    It does so from ``install`` on; to watch needs nothing beside the standard library.
    """
    try:
        word = _free.pop()
    except IndexError:
        if (number := next(_numbers)) >= MOST:
            return Region(None)
        word = REGIONS + 3 * number
    _words[word + LOST] = 0
    _words[word + BEGIN] = address
    _words[word + END] = address + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return Region(word)


def install() -> bool:
    """Put the handler in place, once a process; whether it is in place (not where the system or llvmlite is missing)."""
    global _installed
    if _installed is None:
        with _lock:
            if _installed is None:
                _installed = _install()
    return _installed


_installed: bool | None = None
_lock = threading.Lock()


def _make_lock() -> None:
    """In a forked child: another thread may have held the old one."""
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
    engine.detach()  # never freed, as the table
    return address


def _module() -> Any:
    from llvmlite import ir

    i32, i64, void = ir.IntType(32), ir.IntType(64), ir.VoidType()
    byte_p = ir.IntType(8).as_pointer()

    def libc(name: str, result: ir.Type, *arguments: ir.Type) -> ir.Value:
        """A function by its address, which needs no symbol to be found."""
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

    # Is it in one of the regions? 5 us to know that it is in none.
    block.position_at_end(search)
    k = block.phi(i64)
    k.add_incoming(i64(0), entry)
    block.cbranch(block.icmp_unsigned("<", k, i64(MOST)), region, foreign)

    block.position_at_end(region)
    region_at = block.add(i64(_at + 8 * REGIONS), block.mul(k, i64(24)))
    begin = block.load(pointer(block.add(region_at, i64(8 * BEGIN))))
    end = block.load(pointer(block.add(region_at, i64(8 * END))))
    inside = block.and_(block.icmp_unsigned("<=", begin, address), block.icmp_unsigned("<", address, end))
    block.cbranch(inside, mine, following)

    block.position_at_end(following)
    k.add_incoming(block.add(k, i64(1)), following)
    block.branch(search)

    # One call for all that follows, which where a file was cut short is lost too: one for each page would be thousands of maps.
    block.position_at_end(mine)
    lost = pointer(block.add(region_at, i64(8 * LOST)))
    block.store(block.add(block.sub(address, begin), i64(1)), lost)
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
    # A signal that somebody sent can be ignored, and comes once; an instruction runs again, and then is the system's.
    sent = block.icmp_signed("<=", code, i32(0))
    ignored = block.icmp_unsigned("==", previous, i64(SIG_IGN))
    with block.if_then(block.and_(sent, ignored)):
        block.ret_void()
    block.call(libc("signal", i64, i32, i64), (number, i64(SIG_DFL)))
    with block.if_then(sent):
        block.call(libc("raise", i32, i32), (number,))
    block.ret_void()
    return module

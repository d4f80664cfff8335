"""How the C library keeps memory that PyTorch frees on the CPU; settings of the whole process.

Both are glibc's `mallopt` and do nothing where there is none (macOS, Windows, musl).
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep blocks of up to 32 MiB when they are freed; return whether that is so.

    By default their pages go back to the system, which clears and maps them again at the next
    operation: of eight guided images of `tiny`, an eighth of a step. The process stays as large as
    it ever was.
    """
    return _mallopt(_MMAP_THRESHOLD, 32 * 2**20) and _mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def share_one_heap() -> bool:
    """Let all threads take memory from one heap; return whether that is so.

    By default threads that come and go leave heaps of their own behind: a server of many runs
    grows by a third. Call it before the first thread is started.
    """
    return _mallopt(_ARENA_MAX, 1)


def _mallopt(parameter: int, value: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(parameter, value) == 1

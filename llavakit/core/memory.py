"""Whether freed memory stays in the process or goes back to the system.

Training on a CPU allocates and frees the same large tensors every step. By default glibc gives such blocks back
to the system at once and gets them anew, page fault by page fault; on a small model that is a third of the step.
A server is the opposite: what a large request held should be gone when it is.
"""

import ctypes
import resource
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed blocks instead of returning them. Does nothing on other C libraries."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 256 * 2**20)


def return_freed_memory() -> None:
    """Give back to the system what was freed and lies between blocks in use. Does nothing on other C libraries."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def resident_bytes() -> int:
    """The memory this process has now; on systems without /proc, the most that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else size * 1024
    return pages * resource.getpagesize()

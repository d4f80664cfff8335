"""Memory that is kept: asked of a process of its own, since both settings last."""

import subprocess
import sys

import pytest

CODE = """
import ctypes, threading
from deco_lab import fast
assert fast.share_one_heap() and fast.keep_freed_memory()
thread = threading.Thread(target=lambda: bytearray(10_000)); thread.start(); thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt; run it on Linux")
def test_share_one_heap_leaves_no_heap_of_a_thread():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "Arena 0" in done.stderr
    assert "Arena 1" not in done.stderr

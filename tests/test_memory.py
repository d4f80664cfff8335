"""Memory that is kept: asked of a process of its own, since both settings last."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only glibc has mallopt; run it on Linux"
)


def test_share_one_heap_leaves_no_heap_of_a_thread_and_freed_memory_is_kept():
    code = """
import ctypes, threading
import torch
from deco_lab import fast
assert fast.share_one_heap() and fast.keep_freed_memory()
def work():
    torch.set_num_threads(1)
    kept.append([torch.ones(1000) for _ in range(100)])
kept = []
for _ in range(4):
    thread = threading.Thread(target=work); thread.start(); thread.join()
torch.empty(2**20).fill_(1.0)  # 4 MiB, freed
ctypes.CDLL(None).malloc_stats()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Arena 0" in done.stderr
    assert "Arena 1" not in done.stderr
    system, in_use = (int(line.split("=")[1]) for line in done.stderr.splitlines()[-4:-2])
    assert system - in_use > 2**22

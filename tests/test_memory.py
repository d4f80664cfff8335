"""Memory that is kept: asked of a process of its own, since both settings last."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from deco_lab.fast import memory
torch.set_num_threads(1)
if {keep}: assert memory.keep_freed_memory()
def work():
    for size in (2**18, 2**20): [torch.empty(size).fill_(1.0) for _ in range(16)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    code = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt; run it on Linux")
def test_keep_freed_memory_faults_no_page_twice():
    assert faults(keep=True) < 100  # the blocks have 20,000 pages
    assert faults(keep=False) > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt; run it on Linux")
def test_share_one_heap_leaves_no_heap_of_a_thread():
    code = """
import ctypes, threading
import torch
from deco_lab.fast import memory
assert memory.share_one_heap()
def work():
    torch.set_num_threads(1)
    kept.append([torch.ones(1000) for _ in range(100)])
kept = []
for _ in range(4):
    thread = threading.Thread(target=work); thread.start(); thread.join()
ctypes.CDLL(None).malloc_stats()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Arena 0" in done.stderr
    assert "Arena 1" not in done.stderr

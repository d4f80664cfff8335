"""What a GPU would refuse, or wait for, found on a CPU: `simulated.py` says how.

The tests themselves are those of `test_gpu.py`, except of streams, kernels and graphs, and those of
`simulated_cases.py`. They run in a process of their own, because a backend stays.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import MISSING

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_simulated_device_finds_nothing_to_refuse():
    files = [str(HERE / name) for name in ("test_gpu.py", "simulated_cases.py")]
    beyond = "not graphs and not ready_for_sampling and not training_compiles and not prefetched"
    options = ["-q", "-x", "-p", "simulated", "-p", "no:cacheprovider", "-k", beyond]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout, done.stdout

"""The app as a person starts it, in a process of its own.

Gradio leaves sockets and event loops to the garbage collector, which would warn in whatever test
runs then.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

APP = Path(__file__).parents[1] / "app.py"


@contextmanager
def served(
    *arguments: str, log: Path, script: str | Path = APP, **environment: str
) -> Iterator[tuple]:
    """Start the app, or a script that serves one; give its address and its process."""
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, **environment},
        )
    with server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            found = re.search(r"http://\S+", said)
            assert found, said + log.read_text()
            yield found[0], server
        finally:
            server.kill()

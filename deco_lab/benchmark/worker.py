"""Processes that do what they are asked, one thing at a time, and are idle between.

Each is a fresh Python: it has imported and set nothing but what it is asked for. It ends where the
pipe to who started it does, so that none outlives that.
"""

import multiprocessing
import pickle
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class WorkerError(RuntimeError):
    """A worker that has ended; the message says so in one sentence."""


class Worker:
    """A process that holds one object and calls what it is asked to with it.

    Parameters
    ----------
    name : str
        What errors call it.
    make : callable
        Makes the object, in the process: a function or a class of a module.
    *arguments
        Of `make`; can be pickled.

    Raises
    ------
    WorkerError
        Where the object cannot be made; the process has printed why.
    """

    def __init__(self, name: str, make: Callable[..., Any], *arguments: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function, such as a method of the class, makes of the object.

        Function, arguments and answer travel by pickle.

        Raises
        ------
        WorkerError
            Where the process has ended, or ends at that.
        """
        return self._answer(pickle.dumps((method, arguments)))

    def _answer(self, question: bytes = b"") -> Any:
        try:
            if question:
                self._pipe.send_bytes(question)
            return pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self.process.join()
            code = self.process.exitcode or 0
            reason = "what it printed says why"
            if code < 0:
                reason = f"signal {-code} ended it, as the system does where memory runs out"
            raise WorkerError(
                f"the process of {self.name} has ended with exit status {code}: {reason}"
            ) from error

    def close(self) -> None:
        """End the process, at once where it is at work."""
        self._pipe.close()
        self.process.join(timeout=5)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Answer until the pipe ends; only by pickle, which shares no memory of tensors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for who asks, and who then closes this
    held, answer = make(*arguments), None
    while True:
        pipe.send_bytes(pickle.dumps(answer))
        try:
            method, given = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        answer = method(held, *given)

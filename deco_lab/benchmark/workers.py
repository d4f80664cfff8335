"""Processes that do what they are asked, one thing at a time, and are idle between.

Each is a fresh Python, started as a script is: it has imported and set nothing but what it is asked
for. Questions and answers are pickled through its standard input and output, and what it prints
goes to its standard error. It ends where its input ends, so that none outlives who started it.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

_COMMAND = "from deco_lab.benchmark.workers import serve; serve()"


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
        command = [sys.executable, "-c", _COMMAND]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._ask(make, arguments, {})
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        method: Callable[Concatenate[Any, Asked], Answer],
        *arguments: Asked.args,
        **named: Asked.kwargs,
    ) -> Answer:
        """Return what a function, such as a method of the class, makes of the object.

        Function, arguments and answer travel by pickle.

        Raises
        ------
        WorkerError
            Where the process has ended, or ends at that.
        """
        return self._ask(method, arguments, named)

    def _ask(self, *question: Any) -> Any:
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None
        assert answers is not None
        try:
            pickle.dump(question, questions)
            questions.flush()
            return pickle.load(answers)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            code = self.process.wait()
            reason = "what it printed says why"
            if code < 0:
                reason = f"signal {-code} ended it, as the system does where memory runs out"
            raise WorkerError(
                f"the process of {self.name} has ended with exit status {code}: {reason}"
            ) from error

    def close(self) -> None:
        """End the process, at once where it is at work."""
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None
        assert answers is not None
        with suppress(BrokenPipeError):
            questions.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        answers.close()


def serve() -> None:
    """Answer until standard input ends; what a worker's process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for who asks, and who then closes this
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed lines would be taken for answers
    make, arguments, named = pickle.load(questions)
    held, answer = make(*arguments, **named), None
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            method, arguments, named = pickle.load(questions)
        except EOFError:
            return
        answer = method(held, *arguments, **named)

"""Asking this machine itself past whatever proxy a person's environment names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def past_proxies() -> Iterator[None]:
    """Let HTTP clients that are made within use no proxy; what is made later uses the person's.

    Gradio makes clients when it is imported and when it starts, to ask its own address. httpx
    sets up every proxy of the environment for each client, and raises for kinds that it does not
    know, such as socks://, even where `no_proxy` says that none is wanted for the address; only "*"
    keeps it from that.
    """
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "*"
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before

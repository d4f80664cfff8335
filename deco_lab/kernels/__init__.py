"""Native kernels for a CPU: sources in C++, and what builds, finds and calls them."""

from deco_lab.kernels.build import KernelError, call, library, only_numbers

__all__ = ["KernelError", "call", "library", "only_numbers"]

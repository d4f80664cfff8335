"""How any model is made fast: compiled regions, CUDA graphs, native kernels, and kept memory."""

from deco_lab.fast.memory import keep_freed_memory, share_one_heap

__all__ = ["keep_freed_memory", "share_one_heap"]

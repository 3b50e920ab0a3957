"""`ndl.jit`: following a function of Tensors once, and running it as one native program from then on."""

from needle.jit.function import CacheInfo, JitFunction, jit

__all__ = ["CacheInfo", "JitFunction", "jit"]

"""Giving models and arrays to other libraries, and taking theirs.

Arrays are passed without a copy where the protocols allow it; models are passed as named arrays. No other library is
imported here: what is theirs is reached by protocol or by name.
"""

from needle.interchange.dlpack import from_dlpack

__all__ = ["from_dlpack"]

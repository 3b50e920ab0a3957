"""Giving models and arrays to other libraries, and taking theirs.

Arrays are passed without a copy where the protocols allow it; models are passed as named arrays. No other library is
imported here: what is theirs is reached by protocol or by name.
"""

from needle.interchange.dlpack import from_dlpack
from needle.interchange.torch import from_torch_state_dict, load_torch_file, save_torch_file, to_torch_state_dict

__all__ = ["from_dlpack", "from_torch_state_dict", "load_torch_file", "save_torch_file", "to_torch_state_dict"]

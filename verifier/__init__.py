"""Are two answers of mathematics equal?

`from verifier import equal`. Imports nothing of this repository.
"""

from .compare import choice, equal

__all__ = ["choice", "equal"]

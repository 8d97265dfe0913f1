"""From a cut graph back to a module of the user's own class."""

from edgeprune.write_back.writing import to_module

__all__ = ["to_module"]

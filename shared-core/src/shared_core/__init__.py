"""The thin core of the collection: devices, logging, run folders, claims and commands."""

from shared_core.errors import InputError, RunError

__all__ = ["InputError", "RunError"]

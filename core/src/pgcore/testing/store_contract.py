"""The former name of ``pgcore.testing.dcs``, for tests written against it."""

from pgcore.testing.dcs import OpenStore, StoreContract

__all__ = ["OpenStore", "StoreContract"]

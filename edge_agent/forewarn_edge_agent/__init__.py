"""The edge agent: one process on the equipment that watches its signals and tells the cloud what matters."""

from forewarn_models import __version__

__all__ = ["__version__"]

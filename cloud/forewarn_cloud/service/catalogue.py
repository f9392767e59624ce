"""What is known about a class of machines, also one nobody has described."""

from functools import cache
from typing import Final

from forewarn_models.asset_type import AssetType, Signal, builtin_asset_type, builtin_names, generic_asset_type

_NO_SIGNALS: Final = (Signal(name="signal", unit=""),)


@cache
def asset_type_of(name: str) -> AssetType:
    """The built-in asset type of that name, or a generic one that knows no failure mode."""
    return builtin_asset_type(name) if name in builtin_names() else generic_asset_type(_NO_SIGNALS)

"""Model folders on disk: what `fit` learned is written so that the folder always holds a whole model, old or new."""

import os
from collections.abc import Mapping
from pathlib import Path

from forewarn_cloud.history.files import written_whole
from forewarn_models.asset_type import AssetType
from forewarn_models.knowledge import FleetKnowledge
from forewarn_models.model_folder import Manifest, ModelFolderError, load_model, pack


def save_model_folder(folder: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
    """Write `contents` (role -> JSON or npz) and then the manifest, whose `files` and `digest` are filled in here."""
    folder.mkdir(parents=True, exist_ok=True)
    complete, files = pack(manifest, contents)
    for name, content in files.items():
        _write_durably(folder / name, content)
    return complete


def load_model_folder(folder: Path, asset_type: AssetType) -> FleetKnowledge:
    """What was learned about machines of this type.

    Raises:
        ModelFolderError: as `load_model`; the message begins with the path of the file.
    """
    try:
        return load_model(lambda name: (folder / name).read_bytes(), asset_type)
    except ModelFolderError as error:
        raise ModelFolderError(f"{folder}/{error}") from None


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file in one step; it is on disk when this returns."""
    with written_whole(path) as unfinished, unfinished.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

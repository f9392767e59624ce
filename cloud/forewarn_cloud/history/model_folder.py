"""A model folder: what `fit` learned, JSON and arrays (npz), with a manifest that knows the SHA-256 of every file.

The manifest is written last and replaced in one step, and files are named after their content. So a folder holds
either the old model or the new one, whatever happens in between; and a file that was changed by hand is refused.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
_ARRAYS: Final = "_arrays"
_ROLE: Final = re.compile("[a-z][a-z0-9_]{0,40}")
_SHA256: Final = re.compile("[0-9a-f]{64}")


class ModelFolderError(ValueError):
    """The model folder cannot be used; the message names the file and the fix."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is in a model folder and where it comes from."""

    schema: int
    asset_type: str
    learned_from: str
    """Name of the dataset."""
    lives: int
    """Run-to-failure histories it rests on."""
    files: dict[str, str]
    """Role -> SHA-256 (hex) of the file `<role>-<first 12 digits>.json`, or `.npz` if the role ends with `_arrays`."""
    digest: str = ""
    """SHA-256 (hex) of this manifest with an empty digest."""


def save_model_folder(folder: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
    """Write `contents` (role -> JSON or npz) and then the manifest, whose `files` and `digest` are filled in here."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {role: _sha256(content) for role, content in contents.items()}
    for role, content in contents.items():
        _write_durably(folder / _file_name(role, files[role]), content)
    complete = _sealed(msgspec.structs.replace(manifest, files=files))
    _write_durably(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(complete)) + b"\n")
    return complete


def load_model_folder(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the content of every file, all checked.

    Raises:
        ModelFolderError: there is no model, it is of another version, or a file is missing or was changed.
    """
    manifest = _read_manifest(folder)
    return manifest, {role: _read_checked(folder, role, sha256) for role, sha256 in manifest.files.items()}


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFolderError(f"{path}: not there; give a folder that `forewarn-cloud fit` wrote") from None
    except msgspec.MsgspecError as error:
        raise ModelFolderError(f"{path}: {error}; run `forewarn-cloud fit` again") from None
    if manifest.schema != SCHEMA:
        raise ModelFolderError(f"{path}: version {manifest.schema}, this program reads {SCHEMA}; fit the model again")
    for role, sha256 in manifest.files.items():
        if not (_ROLE.fullmatch(role) and _SHA256.fullmatch(sha256)):
            raise ModelFolderError(f"{path}: files: {role!r} is no file of a model; run `forewarn-cloud fit` again")
    if _sealed(manifest).digest != manifest.digest:
        raise ModelFolderError(f"{path}: changed since it was written; run `forewarn-cloud fit` again")
    return manifest


def _read_checked(folder: Path, role: str, sha256: str) -> bytes:
    path = folder / _file_name(role, sha256)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelFolderError(f"{path}: missing; run `forewarn-cloud fit` again") from None
    if _sha256(content) != sha256:
        raise ModelFolderError(f"{path}: changed since it was written; run `forewarn-cloud fit` again")
    return content


def _file_name(role: str, sha256: str) -> str:
    return f"{role}-{sha256[:12]}{'.npz' if role.endswith(_ARRAYS) else '.json'}"


def _sealed(manifest: Manifest) -> Manifest:
    plain = msgspec.structs.replace(manifest, digest="")
    return msgspec.structs.replace(plain, digest=_sha256(msgspec.json.encode(plain, order="deterministic")))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file in one step; it is on disk when this returns."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

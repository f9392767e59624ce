"""A model folder: what `fit` learned, JSON and arrays (npz), with a manifest that knows the SHA-256 of every file.

Files are named after their content, so that a folder whose manifest is written last and replaced in one step holds
either the old model or the new one; and a file that was changed by hand is refused. Pure: who calls reads and writes.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from forewarn_models.asset_type import AssetType
from forewarn_models.fleet_model import FleetModelError, check_signals
from forewarn_models.knowledge import FleetKnowledge, KnowledgeError, load_knowledge

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
_ARRAYS: Final = "_arrays"
_ROLE: Final = re.compile("[a-z][a-z0-9_]{0,40}")
_SHA256: Final = re.compile("[0-9a-f]{64}")

Read = Callable[[str], bytes]
"""Name of a file in the folder -> its content. FileNotFoundError and NotADirectoryError say that it is not there."""


class ModelFolderError(ValueError):
    """The model folder cannot be used; the message begins with the name of the file and tells the fix."""


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


def pack(manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with `files` and `digest` filled in for `contents` (role -> JSON or npz); and file name -> content.

    The manifest is the last of the files and must be written last.
    """
    hashes = {role: _sha256(content) for role, content in contents.items()}
    complete = _sealed(msgspec.structs.replace(manifest, files=hashes))
    files = {_file_name(role, hashes[role]): content for role, content in contents.items()}
    return complete, {**files, MANIFEST: msgspec.json.format(msgspec.json.encode(complete)) + b"\n"}


def unpack(read: Read) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the content of every file (role -> bytes), all checked.

    Raises:
        ModelFolderError: there is no model, it is of another version, or a file is missing or was changed.
        OSError: as `read` raises it, unless it says that the file is not there.
    """
    manifest = _read_manifest(read)
    return manifest, {role: _read_checked(read, role, sha256) for role, sha256 in manifest.files.items()}


def load_model(read: Read, asset_type: AssetType) -> FleetKnowledge:
    """What was learned about machines of this type.

    Raises:
        ModelFolderError: as `unpack`; or it is about another type of machine or other signals, or its content cannot
            be used.
        OSError: as `unpack`.
    """
    manifest, contents = unpack(read)
    if manifest.asset_type != asset_type.asset_type:
        raise ModelFolderError(
            f"{MANIFEST}: learned from {manifest.asset_type}, but this is {asset_type.asset_type}; "
            "give a model fitted on machines of the same type"
        )
    try:
        knowledge = load_knowledge(contents)
        if knowledge.fleet_model is not None:
            check_signals(knowledge.fleet_model, _names(asset_type, "condition"), _names(asset_type, "regime"))
    except (KnowledgeError, FleetModelError) as error:
        raise ModelFolderError(f"{MANIFEST}: {error}") from None
    return knowledge


def _names(asset_type: AssetType, role: str) -> tuple[str, ...]:
    return tuple(signal.name for signal in asset_type.signals if signal.role == role)


def _read_manifest(read: Read) -> Manifest:
    try:
        manifest = msgspec.json.decode(read(MANIFEST), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFolderError(f"{MANIFEST}: not there; give a folder that `forewarn-cloud fit` wrote") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{MANIFEST}: {error}; run `forewarn-cloud fit` again") from None
    if manifest.schema != SCHEMA:
        raise ModelFolderError(
            f"{MANIFEST}: version {manifest.schema}, this program reads {SCHEMA}; fit the model again"
        )
    for role, sha256 in manifest.files.items():
        if not (_ROLE.fullmatch(role) and _SHA256.fullmatch(sha256)):
            raise ModelFolderError(f"{MANIFEST}: files: {role!r} is no file of a model; run `forewarn-cloud fit` again")
    if _sealed(manifest).digest != manifest.digest:
        raise ModelFolderError(f"{MANIFEST}: changed since it was written; run `forewarn-cloud fit` again")
    return manifest


def _read_checked(read: Read, role: str, sha256: str) -> bytes:
    name = _file_name(role, sha256)
    try:
        content = read(name)
    except FileNotFoundError:
        raise ModelFolderError(f"{name}: missing; run `forewarn-cloud fit` again, or copy the whole folder") from None
    if _sha256(content) != sha256:
        raise ModelFolderError(f"{name}: changed since it was written; run `forewarn-cloud fit` again")
    return content


def _file_name(role: str, sha256: str) -> str:
    return f"{role}-{sha256[:12]}{'.npz' if role.endswith(_ARRAYS) else '.json'}"


def _sealed(manifest: Manifest) -> Manifest:
    plain = msgspec.structs.replace(manifest, digest="")
    return msgspec.structs.replace(plain, digest=_sha256(msgspec.json.encode(plain, order="deterministic")))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

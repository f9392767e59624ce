"""Model folders: what was saved is what is loaded, and anything else is refused."""

import re
from pathlib import Path

import msgspec
import pytest

from forewarn_cloud.history.model_folder import load_model_folder, save_model_folder
from forewarn_models.asset_type import Signal, generic_asset_type
from forewarn_models.model_folder import MANIFEST, SCHEMA, Manifest, ModelFolderError, unpack

PLAN = Manifest(schema=SCHEMA, asset_type="small_pump", learned_from="two-pumps", lives=7, files={})
PUMP = generic_asset_type((Signal(name="flow", unit=""),), "small_pump")


def contents_of(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    return unpack(lambda name: (folder / name).read_bytes())


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = save_model_folder(tmp_path / "m", PLAN, {"knowledge": b'{"a": 1}'})
    manifest, contents = contents_of(tmp_path / "m")
    assert manifest == saved
    assert (manifest.asset_type, manifest.lives) == ("small_pump", 7)
    assert contents == {"knowledge": b'{"a": 1}'}


def test_a_new_model_replaces_the_old_one_and_never_its_files(tmp_path: Path) -> None:
    first = save_model_folder(tmp_path, PLAN, {"knowledge": b"{}"})
    old_manifest = (tmp_path / MANIFEST).read_bytes()
    save_model_folder(tmp_path, PLAN, {"knowledge": b"[]"})
    assert contents_of(tmp_path)[1] == {"knowledge": b"[]"}
    (tmp_path / MANIFEST).write_bytes(old_manifest)  # as if the program had died before replacing the manifest
    assert contents_of(tmp_path) == (first, {"knowledge": b"{}"})


def _model(folder: Path) -> Path:
    save_model_folder(folder, PLAN, {"knowledge": b'{"a": 1}'})
    return next(folder.glob("knowledge-*.json"))


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = _model(tmp_path)
    path.write_bytes(b'{"a": 2}')
    with pytest.raises(ModelFolderError, match=re.escape(f"{path}: changed since it was written")):
        load_model_folder(tmp_path, PUMP)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = _model(tmp_path)
    path.unlink()
    with pytest.raises(ModelFolderError, match=re.escape(f"{path}: missing")):
        load_model_folder(tmp_path, PUMP)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    _model(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace('"lives": 7', '"lives": 70'))
    with pytest.raises(ModelFolderError, match="changed since it was written"):
        load_model_folder(tmp_path, PUMP)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    save_model_folder(tmp_path, msgspec.structs.replace(PLAN, schema=SCHEMA + 1), {})
    with pytest.raises(ModelFolderError, match=f"version {SCHEMA + 1}, this program reads {SCHEMA}"):
        load_model_folder(tmp_path, PUMP)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "1"}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ModelFolderError, match=re.escape("fit` again")):
        load_model_folder(tmp_path, PUMP)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=re.escape("not there; give a folder that `forewarn-cloud fit` wrote")):
        load_model_folder(tmp_path, PUMP)


def test_arrays_are_kept_as_npz_and_checked_alike(tmp_path: Path) -> None:
    save_model_folder(tmp_path, PLAN, {"knowledge": b"{}", "fleet_arrays": b"PK"})
    assert contents_of(tmp_path)[1] == {"knowledge": b"{}", "fleet_arrays": b"PK"}
    (path,) = tmp_path.glob("fleet_arrays-*.npz")
    path.write_bytes(b"PKPK")
    with pytest.raises(ModelFolderError, match=re.escape(f"{path}: changed since it was written")):
        load_model_folder(tmp_path, PUMP)


@pytest.mark.parametrize("role", ["../secret", "", "Knowledge", "/etc/passwd"])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, role: str) -> None:
    _model(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace('"knowledge"', f'"{role}"'))
    with pytest.raises(ModelFolderError, match="is no file of a model"):
        load_model_folder(tmp_path, PUMP)


def test_a_model_of_another_type_of_machine_is_refused(tmp_path: Path) -> None:
    _model(tmp_path)
    press = generic_asset_type((Signal(name="force", unit=""),), "press")
    told = f"{tmp_path / MANIFEST}: learned from small_pump, but this is press"
    with pytest.raises(ModelFolderError, match=re.escape(told)):
        load_model_folder(tmp_path, press)


def test_content_that_is_no_knowledge_is_refused(tmp_path: Path) -> None:
    _model(tmp_path)
    with pytest.raises(ModelFolderError, match="fleet knowledge: Object "):
        load_model_folder(tmp_path, PUMP)


def test_a_file_that_the_folder_cannot_give_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(IsADirectoryError):
        load_model_folder(tmp_path, PUMP)

"""Small dataset folders for tests."""

import gzip
from pathlib import Path

DESCRIPTION = """
name = "two-pumps"
asset_type = "small_pump"

[[signals]]
name = "speed_rpm"
unit = "rpm"
role = "regime"

[[signals]]
name = "vibration_mm_s"
unit = "mm/s"
"""

TELEMETRY = """asset_id,observed_at,speed_rpm,vibration_mm_s
p1,2026-01-01T00:00:00Z,1500,2.5
p2,2026-01-01T00:00:00Z,1480,
p1,2026-01-01T00:10:00.250Z,1501,2.75
p2,2026-01-01T08:10:00+08:00,nan,3
"""


def write_folder(folder: Path, *, description: str = DESCRIPTION, telemetry: str = TELEMETRY, **events: str) -> Path:
    """A dataset folder; `events` maps the stem of an optional file to its text."""
    folder.mkdir(exist_ok=True)
    (folder / "dataset.toml").write_text(description, "utf-8")
    (folder / "telemetry.csv").write_text(telemetry, "utf-8")
    for stem, text in events.items():
        (folder / f"{stem}.csv").write_text(text, "utf-8")
    return folder


def compress(path: Path) -> Path:
    """Replace a file by its gzip."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    return packed

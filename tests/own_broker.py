"""mosquitto as `deploy/mosquitto.conf` sets it up, on a port of the test's own."""

import os
import pwd
from pathlib import Path

from tests.conftest import find_program, require

SAMPLE = Path(__file__).parents[1] / "deploy" / "mosquitto.conf"
USUAL_LISTENER = "listener 1883 127.0.0.1\n"


def mosquitto_as_deployed(folder: Path, port: int) -> list[str]:
    """The command. As root, mosquitto would become somebody who may read nothing of ours."""
    program = find_program("mosquitto", "/usr/sbin")
    require(program is not None, "mosquitto is not installed (apt install mosquitto)")
    settings, sample = folder / "mosquitto.conf", SAMPLE.read_text("utf-8")
    assert USUAL_LISTENER in sample
    listener = f"listener {port} 127.0.0.1\nuser {pwd.getpwuid(os.getuid()).pw_name}\n"
    settings.write_text(sample.replace(USUAL_LISTENER, listener))
    return [str(program), "-c", str(settings)]

"""A PostgreSQL of a test's own, to be stopped, suspended, killed and started again."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.conftest import find_program, free_port, postgres_answers, postgres_user, require, wait_until


@dataclass(kw_only=True)
class PostgresServer:
    """`home` belongs to the user PostgreSQL runs as; not below pytest's folder, which is closed to others."""

    program: str
    home: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://forewarn@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.home}"]
        self.process = subprocess.Popen(
            [self.program, "-D", str(self.home / "cluster"), "-p", str(self.port), *options],
            user=postgres_user(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: postgres_answers(f"forewarn@127.0.0.1:{self.port}/postgres"), "PostgreSQL answers", 120.0)

    def stop(self) -> None:
        """At once, cutting off whoever is connected."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        self.process = None

    def kill(self) -> None:
        """All its processes."""
        assert self.process is not None
        self._signal(signal.SIGKILL)
        self.process.wait(60)
        self.process = None

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, kind: signal.Signals) -> None:
        """To the server, and to its children, each of which has a session of its own."""
        assert self.process is not None
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in (parent, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, kind)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def make_postgres(home: Path) -> PostgresServer:
    """A new cluster in an existing folder; not started."""
    folders = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb, postgres = find_program("initdb", *folders), find_program("postgres", *folders)
    require(initdb is not None and postgres is not None, "PostgreSQL is not installed (apt install postgresql)")
    user = postgres_user()
    if user is not None:
        shutil.chown(home, user)
    made = [str(initdb), "-D", str(home / "cluster"), "-A", "trust", "-U", "forewarn", "-E", "UTF8", "--no-sync"]
    subprocess.run(made, check=True, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    return PostgresServer(program=str(postgres), home=home, port=free_port())

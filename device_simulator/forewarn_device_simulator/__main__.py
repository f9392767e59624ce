"""The console script forewarn-sim."""

import sys


def main() -> None:
    try:
        from forewarn_device_simulator.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0].startswith("forewarn"):
            raise
        print(
            f'forewarn-sim needs the extra "simulator" ({error.name} is missing): pip install "forewarn[simulator]"',
            file=sys.stderr,
        )
        sys.exit(78)
    app()


if __name__ == "__main__":
    main()

"""The console script `forewarn-edge`."""

import sys

_EXTRA = {"aiomqtt", "paho"}


def main() -> None:
    try:
        from forewarn_edge_agent.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(f'forewarn-edge needs the extra "edge": pip install "forewarn[edge]" ({error.name} is missing)')
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

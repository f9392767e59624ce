"""The console script `forewarn-cloud`."""

import sys

_OURS = "forewarn_"


def main() -> None:
    try:
        from forewarn_cloud.cli import run
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith(_OURS):
            raise
        sys.exit(f'forewarn-cloud needs the extra "cloud": pip install "forewarn[cloud]" ({missing} is missing)')
    sys.exit(run())


if __name__ == "__main__":
    main()

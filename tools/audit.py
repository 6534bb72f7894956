"""Looks the installed packages up in the database of known holes; needs the network and the extra `audit`.

Further options are pip-audit's; the exit code is 1 where a package has a known hole.
"""

import argparse
import subprocess
import sys
from importlib.util import find_spec

import _environment  # noqa: F401


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _, options = parser.parse_known_args()
    if find_spec("pip_audit") is None:
        print("error: there is no pip-audit here: pip install -e '.[audit]'", file=sys.stderr)
        return 2
    return subprocess.run([sys.executable, "-m", "pip_audit", *options], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())

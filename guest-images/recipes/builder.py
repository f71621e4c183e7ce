"""What every `build` script of this directory does with its command line."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import debian


def main(argv: list[str], name: str, get: Callable[[bool], Path]) -> int:
    """Makes one image and prints the paths of the kernel and of all its files."""
    parser = argparse.ArgumentParser(prog=f"guest-images/{name}/build", description=f"Makes the {name} guest in the image cache.")
    parser.add_argument("--refresh", action="store_true", help="look for a newer kernel")
    args = parser.parse_args(argv)
    try:
        found = get(args.refresh)
    except debian.RecipeError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"build: {' '.join(map(str, error.cmd))} failed with {error.returncode}", file=sys.stderr)
        return 1
    kernel = debian.kernel("cloud")
    for path in [kernel.vmlinuz, kernel.vmlinux, *sorted(path for path in found.iterdir() if path.is_file())]:
        print(path)
    return 0

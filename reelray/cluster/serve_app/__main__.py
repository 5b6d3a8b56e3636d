"""`python -m reelray.cluster.serve_app --config app.yaml -- COMMAND`: the entry point of a Ray job."""

import argparse
import sys
from pathlib import Path

import ray

from reelray.cluster.serve_app.beside import read_arguments, run_beside
from reelray.proto.errors import ReelrayError

ABOUT = "Start the application on this Ray cluster, run a command beside it, and end it in good order."
EXAMPLE = 'python -m reelray.cluster.serve_app --config app.yaml -- reelray render "a star" --server {address} -o a.mp4'


def main() -> int:
    """Run and return the command's exit status."""
    parser = argparse.ArgumentParser("python -m reelray.cluster.serve_app", description=ABOUT, epilog=EXAMPLE)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="arguments of the application, YAML")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="{address} in it becomes the gateway's address")
    asked = parser.parse_args()
    try:
        arguments = read_arguments(asked.config)
        ray.init(address="auto")
        return run_beside(arguments, asked.command)
    except ReelrayError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""Runs every benchmark of this folder, one after the other: `run.py [NAME...]`. Results land in benchmarks/results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_BENCHMARKS = {"run", "measure", "bgp_rivals", "kube_proxy", "service_rivals"}


def main(wanted: list[str]) -> int:
    files = {file.stem: file for file in sorted(HERE.glob("*.py")) if file.stem not in NOT_BENCHMARKS}
    unknown = set(wanted) - files.keys()
    if unknown:
        print(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(files)}", file=sys.stderr)
        return 2
    failed = [
        name for name in wanted or files if subprocess.run([sys.executable, str(files[name])], cwd=HERE).returncode
    ]
    for name in failed:
        print(f"FAILED {name}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

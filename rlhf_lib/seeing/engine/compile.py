"""Compile the kernel: `python -m rlhf_lib.seeing.engine.compile`, or `make engine`.

The compiler is Zig's, from PyPI (`ziglang`), which has all that WebAssembly needs in one package;
the same version gives the same bytes on every machine. Chapter: rlvr.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import HERE

FLAGS = (
    "-target wasm32-freestanding -O3 -msimd128 -ffp-contract=fast -fno-math-errno -Wall -Werror "
    "-nostdlib -Wl,--no-entry -s"
).split()


def compile_kernel(out: Path = HERE / "kernel.wasm") -> Path:
    """Compile every C file of this folder into one WebAssembly module."""
    sources = sorted(path.name for path in HERE.glob("*.c"))
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(out.resolve()), *sources]
    subprocess.run(command, cwd=HERE, check=True)
    return out


if __name__ == "__main__":
    path = compile_kernel()
    print(f"{path}: {path.stat().st_size:,} bytes")

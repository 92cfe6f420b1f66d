"""The tests, the command that runs them, and the benchmarks."""

import sys
from pathlib import Path

# The packages of the demo set are not installed: whatever runs them puts them on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "nix" / "demo"))

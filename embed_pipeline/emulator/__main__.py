"""Run the emulator: `python -m embed_pipeline.emulator`."""

from __future__ import annotations

import sys

from embed_pipeline.emulator.server import main

if __name__ == "__main__":
    sys.exit(main())

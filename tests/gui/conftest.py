"""GUI tests import their fakes from this folder; a window that fails to close must not ask anything."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

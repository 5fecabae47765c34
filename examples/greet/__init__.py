"""The greet example: a pod (`server`), a long-lived client (`client_long`), one connecting per call (`client_short`).

This is the one place that puts the generated code in `protos/` on the import path, so that `from greet import …` works
in a checkout with nothing installed but the libraries.
"""

import sys
from pathlib import Path

_PROTOS = str(Path(__file__).resolve().parents[2] / "protos")
if _PROTOS not in sys.path:
    sys.path.append(_PROTOS)

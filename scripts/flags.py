"""Write the table of flags in docs/command-line.md from the settings: `.venv/bin/python scripts/flags.py`."""

from __future__ import annotations

import re
from pathlib import Path

from grpcgw.cli.options import draw_flag_table

PAGE = Path(__file__).parents[1] / "docs/command-line.md"
TABLE = re.compile(r"^\| flag \|.*\n(?:\|.*\n)+", re.MULTILINE)


def main() -> None:
    PAGE.write_text(TABLE.sub(lambda _: draw_flag_table(), PAGE.read_text()))


if __name__ == "__main__":
    main()

"""How thoroughly properties are tried: a little in every run of the suite, a lot in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("suite", max_examples=100, stateful_step_count=25, deadline=None, print_blob=True)
settings.register_profile("fuzz", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

"""Own policies: the examples of docs/policies.md, which shows these files as they are."""

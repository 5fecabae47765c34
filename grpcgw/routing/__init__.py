"""Match table, Host rules, weighted split, and routes bound to their clusters. Pure; built once per snapshot."""

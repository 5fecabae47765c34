"""From an RPC to its destination: the match table and the weighted split. Pure; built once per snapshot."""

"""Where objects come from: an API server, a directory of YAML files, certificate files."""

"""gRPC metadata: the type of headers and trailers."""

from __future__ import annotations

MetadataValue = str | bytes
"""Bytes for a key that ends in `-bin`, text for any other."""
Metadata = tuple[tuple[str, MetadataValue], ...]
"""Keys (lower case) and values in the order of the wire; a key may come several times."""

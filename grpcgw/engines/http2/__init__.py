"""The engine on libnghttp2: one event loop for all clients and pods, frames forwarded without being parsed."""

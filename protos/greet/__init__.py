"""Generated from greet.proto by `make proto`; nothing here is written by hand."""

"""The `boxnn` command."""

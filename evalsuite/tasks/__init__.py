"""Built-in tasks, one file each: NAME.yaml, or NAME.py with a `SPEC` and a `read_rows`."""

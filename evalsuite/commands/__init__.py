"""The verbs of the command line, one module each: `add` its flags, and what it calls."""

"""The numbers of the base's model card, measured: `python -m demo.card --help`."""

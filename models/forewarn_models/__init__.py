"""What both ends of forewarn agree on: wire messages, asset types and the numerics. No I/O, no clock."""

__version__ = "0.1.0"

"""The version of this program, by itself so that every part may name it."""

__version__ = "0.1.0"

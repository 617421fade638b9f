"""The version of all programs of the project."""

VERSION = "0.1.0"

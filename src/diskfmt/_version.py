"""The version, read by the build and by `diskfmt --version`."""

__version__ = "0.1.0"

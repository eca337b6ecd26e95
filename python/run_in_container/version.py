"""The version of this package, which is the daemon's."""

VERSION = "0.1.0"

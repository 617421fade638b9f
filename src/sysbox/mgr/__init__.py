"""sysbox-mgr: who owns which ids and volumes."""

VERSION = "0.1.0"

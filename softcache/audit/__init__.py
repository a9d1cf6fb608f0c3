"""After a build: verify, status, info, export."""

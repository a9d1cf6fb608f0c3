"""The trainer's face of a cache: join, attach, views."""

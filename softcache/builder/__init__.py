"""Building: `build.py` prepares the work, has teachers answer it, and publishes the result."""

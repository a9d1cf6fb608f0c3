"""Before a build: validate, forecast, try codecs, evaluate teachers. Nothing here writes a cache."""
